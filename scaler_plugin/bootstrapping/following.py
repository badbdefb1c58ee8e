"""Follows an instance that a person has launched until its node registers or it has ended, and says what it says of itself.

Before there is a leader nobody else does. EC2 knows whether it runs, etcd whether its node is there and what it told of a failure,
its console what kept it from etcd. Guarantees: it changes nothing; a source that cannot be read is said once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from scaler_plugin.bootstrapping.deployment import Progress
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.console_output import read_console
from scaler_plugin.core.model import InstanceId, InstanceState
from scaler_plugin.core.ports import Clock, Fleet
from scaler_plugin.errors import CloudError, ScalerError, StoreUnavailable
from scaler_plugin.leader.failed_start import told_of_starts

#: Between two looks. A probe that finds nothing to do is registered for some seconds only.
LOOK_S = 2.0
#: EC2 is asked less often: its calls are metered, and its console is minutes old.
EC2_LOOK_S = 4.0
CONSOLE_LOOK_S = 20.0
#: After an instance has ended, its last output may come with some delay.
LAST_WORD_S = 30.0
#: Where etcd cannot be reached from here, one that runs for so long without a word is let go: a boot that fails says so at once.
#: A first boot on a stock image comes before, and takes up to the pool's startup_timeout.
BLIND_S = 180.0
#: The dead-man's switch counts from the boot and waits for the leader to go first; then EC2 takes its time.
DEADMAN_S = 600.0
MARGIN_S = 240.0

_STATES = {
    InstanceState.PENDING: "is pending",
    InstanceState.RUNNING: "runs, and boots",
    InstanceState.SHUTTING_DOWN: "shuts down",
    InstanceState.TERMINATED: "has ended",
    InstanceState.STOPPING: "stops",
    InstanceState.STOPPED: "has stopped",
}
_OVER = (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED, InstanceState.STOPPING, InstanceState.STOPPED)


@dataclass(frozen=True)
class ClusterSight:
    """etcd from here; ``store`` is ``None`` where it cannot be reached at all, which the caller has said."""

    store: Store | None
    keys: Keys

    def look(self, instance_id: InstanceId) -> tuple[bool, str]:
        """Whether the node is registered, and why it could not start by its own words. Raises ``StoreError``."""
        if self.store is None:
            return False, ""
        registered = any(node.instance_id == instance_id for node in read_nodes(self.store, self.keys))
        told = told_of_starts(read_events(self.store, self.keys)).get(instance_id)
        return registered, told.sentence if told else ""


@dataclass(frozen=True)
class Patience:
    """For how long an instance may be followed, and for how long one that runs where etcd cannot be seen."""

    whole_s: float
    blind_s: float


def patience_with(startup_timeout_s: float, first_boot: bool) -> Patience:
    """By then it has registered, or the dead-man's switch has ended it. ``first_boot``: it is on a stock image."""
    blind_s = BLIND_S + (startup_timeout_s if first_boot else 0.0)
    return Patience(max(startup_timeout_s, DEADMAN_S) + MARGIN_S, blind_s)


class Following:
    """``wait`` sleeps between two looks."""

    def __init__(
        self,
        instance_id: InstanceId,
        fleet: Fleet,
        sight: ClusterSight,
        clock: Clock,
        progress: Progress,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._instance_id = instance_id
        self._fleet = fleet
        self._sight = sight
        self._clock = clock
        self._progress = progress
        self._wait = wait
        self._etcd_answers = sight.store is not None
        self._began = clock.monotonic()
        self._state: InstanceState | None = None
        self._state_since = 0.0
        self._listed_at = self._read_at = float("-inf")
        self._said = ""  # on the console
        self._told = ""  # in etcd
        self._away: set[str] = set()

    def run(self, patience: Patience, short_lived: bool = False) -> None:
        """Return once it has registered.

        Raises ``ScalerError`` with its own words when it ended before, or did neither in time; ``StoreUnavailable`` where
        nothing was seen of that: etcd does not answer here, and its console tells of no failure.
        ``short_lived``: an instance that may register and end between two looks, and does so without a word when all is well.
        """
        if not self._etcd_answers:
            self._progress(
                "  etcd cannot be reached from here, so only EC2 and its console tell: looking at them for "
                f"{patience.blind_s / 60:.0f} minutes."
            )
        while not self._registered():
            self._look_at_ec2()
            if self._state in _OVER:
                self._wait_for_last_word()
                if not self._why and not self._etcd_answers:
                    raise self._unseen("has ended")
                if short_lived and not self._why:
                    self._tell("ended by itself and told of no failure, as a probe does when nothing is to be done.")
                    return
                why = f"It said: {self._why}" if self._why else "It said nothing of why."
                raise ScalerError(f"Instance {self._instance_id} ended without becoming a node. {why}")
            if self._sight.store is None and not self._said and self._runs_for() > patience.blind_s:
                raise self._unseen("runs")
            if self._clock.monotonic() - self._began > patience.whole_s:
                raise self._too_late()
            self._look_at_console()
            self._wait(LOOK_S)
        self._tell("has registered: its sidecar is up.")

    @property
    def _why(self) -> str:
        return self._told.partition(" could not be set up: ")[2] or self._told or self._said

    def _runs_for(self) -> float:
        return self._clock.monotonic() - self._state_since if self._state is InstanceState.RUNNING else 0.0

    def _registered(self) -> bool:
        try:
            registered, told = self._sight.look(self._instance_id)
        except ScalerError as error:
            self._etcd_answers = False
            self._not_seen("etcd", error)
            return False
        self._etcd_answers = self._sight.store is not None
        if told and told != self._told:
            self._told = told
            self._tell(f"told: {self._why}")
        return registered

    def _look_at_ec2(self) -> None:
        if self._clock.monotonic() - self._listed_at < EC2_LOOK_S:
            return
        self._listed_at = self._clock.monotonic()
        try:
            listed = {instance.instance_id: instance.state for instance in self._fleet.instances()}
        except CloudError as error:
            self._not_seen("EC2", error)
            return
        # One that is not listed yet has just been launched; one that is not listed any more has long ended.
        state = listed.get(self._instance_id, InstanceState.TERMINATED if self._state else None)
        if state is not None and state is not self._state:
            self._state, self._state_since = state, self._clock.monotonic()
            self._tell(f"{_STATES[state]}.")

    def _look_at_console(self) -> None:
        if self._state is not InstanceState.RUNNING or self._clock.monotonic() - self._read_at < CONSOLE_LOOK_S:
            return
        self._read_at = self._clock.monotonic()
        try:
            said = read_console(self._fleet.console_output(self._instance_id)).said
        except CloudError as error:
            self._not_seen("its console", error)
            return
        if said and said != self._said:
            self._said = said
            if said not in self._told:
                self._tell(f"says: {said}")

    def _wait_for_last_word(self) -> None:
        until = self._clock.monotonic() + LAST_WORD_S
        while True:
            self._registered()  # what it told in etcd as the last thing
            try:
                self._said = read_console(self._fleet.console_output(self._instance_id)).said or self._said
            except CloudError as error:
                self._not_seen("its console", error)
            if self._why or self._clock.monotonic() >= until:
                return
            self._wait(LOOK_S)

    def _unseen(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"Instance {self._instance_id} {what}, and its console tells of no failure. Whether its node has registered, and what "
            "it told in etcd, was not seen, because etcd does not answer here. Look from where it does: `scaler-sidecar status`."
        )

    def _too_late(self) -> ScalerError:
        minutes = round((self._clock.monotonic() - self._began) / 60)
        state = _STATES[self._state] if self._state else "is not listed by EC2"
        if not self._etcd_answers and not self._why:
            return self._unseen(f"{state} after {minutes} minutes")
        seen = (
            "Its node has not registered"
            if self._etcd_answers
            else "Whether its node has registered was not seen from here"
        )
        said = f"It said: {self._why}" if self._why else "Its console holds no word of a sidecar's."
        return ScalerError(f"Instance {self._instance_id} {state} after {minutes} minutes. {seen}. {said}")

    def _not_seen(self, what: str, error: ScalerError) -> None:
        if what not in self._away:
            self._away.add(what)
            self._progress(f"  {what[0].upper()}{what[1:]} cannot be read from here: {error}")

    def _tell(self, what: str) -> None:
        self._progress(f"  {self._clock.monotonic() - self._began:4.0f} s  {self._instance_id} {what}")
