"""A node's health while it runs: an ailing machine takes no further task, finishes the one it has, and ends; another replaces it.

Level-triggered: when the ailment goes before the node has ended (a task's files were deleted), the node serves on. Docker may be
away for as long as its own restart takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from scaler_plugin.core.health import HealthPolicy, Vitals, find_ailment, in_crash_loop
from scaler_plugin.core.leaving import Demand
from scaler_plugin.core.model import Node, NodeState, SlotState
from scaler_plugin.core.ports import Clock, Host
from scaler_plugin.sidecar.checks import CheckRounds
from scaler_plugin.sidecar.settings import FollowedSettings

#: An upgrade or a restart of the docker daemon takes less.
DOCKER_PATIENCE_S = 60.0


class Health:
    """Implements ``sidecar.concerns.Concern``."""

    def __init__(
        self,
        host: Host,
        settings: FollowedSettings,
        clock: Clock,
        checks: CheckRounds,
        report_unseen: Callable[[str], None] = lambda _why: None,
    ) -> None:
        """``report_unseen`` is told, once, what of the machine's health can't be looked at."""
        self._host = host
        self._settings = settings
        self._clock = clock
        self._checks = checks
        self._report_unseen = report_unseen
        self._unseen = ""
        self._docker_away_since: float | None = None
        self._crashes = CrashWatch()

    def demand(self, node: Node) -> Demand | None:
        policy = self._settings.policy
        pool = policy.pool(node.pool) if policy else None
        expected = pool.health if pool else HealthPolicy()
        now = self._clock.monotonic()
        loop = self._crashes.look(node, now)
        failed_check = self._checks.step(expected.checks)
        vitals = self._host.vitals()
        self._tell_unseen(vitals.unseen)
        reason = find_ailment(self._with_patience(vitals, now), expected) or failed_check or loop
        return Demand(NodeState.DRAINING, f"Unfit: {reason}", unfit=True) if reason else None

    def _tell_unseen(self, unseen: str) -> None:
        if unseen and unseen != self._unseen:
            self._unseen = unseen
            self._report_unseen(unseen)

    def _with_patience(self, vitals: Vitals, now: float) -> Vitals:
        if vitals.docker_fault is None:
            self._docker_away_since = None
            return vitals
        if self._docker_away_since is None:
            self._docker_away_since = now
        if now - self._docker_away_since >= DOCKER_PATIENCE_S:
            return vitals
        return replace(vitals, docker_fault=None)


class CrashWatch:
    """Counts the deaths of each slot's agent, as the changes of the slot's state show them."""

    def __init__(self) -> None:
        self._down: set[int] = set()
        self._deaths: dict[int, tuple[float, ...]] = {}

    def look(self, node: Node, now: float) -> str | None:
        """Why the node is unfit, if an agent of it dies again and again. ``now`` is monotonic."""
        for slot in node.slots:
            if (
                slot.state is not SlotState.DOWN or slot.problem
            ):  # a record that a task has spoiled says nothing of its agent
                self._down.discard(slot.index)
            elif slot.index not in self._down:
                self._down.add(slot.index)
                self._deaths[slot.index] = (*self._deaths.get(slot.index, ()), now)[-10:]
        for index, deaths in self._deaths.items():
            if in_crash_loop(deaths, now):
                which = "Its agent" if len(node.slots) == 1 else f"The agent of slot {index}"
                return f"{which} has died {len(deaths)} times within minutes; see its log."
        return None
