"""The sidecar: one pass over one node. It reports what the machine does, and ends the machine when it is idle.

Guarantees: no pass waits for anything but the calls it makes; each part of a pass that fails leaves the others their turn;
all that matters is on disk (gates), in etcd or in EC2, so the process may be killed at any line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.events import Event, record
from scaler_plugin.coordination.registry import Condemned, Registry
from scaler_plugin.core.leaving import strongest
from scaler_plugin.core.model import Node, NodeIdentity, NodeRole, NodeState, SlotState
from scaler_plugin.core.policy import PoolPolicy
from scaler_plugin.errors import ScalerError, StoreError
from scaler_plugin.sidecar.concerns import Concern, Protection, first_protection
from scaler_plugin.sidecar.ending import Ending
from scaler_plugin.sidecar.etcd_contact import EtcdContact
from scaler_plugin.sidecar.leading import Leading
from scaler_plugin.sidecar.load_report import LoadReport
from scaler_plugin.sidecar.ports import NodePorts
from scaler_plugin.sidecar.probing import Probing
from scaler_plugin.sidecar.retirement import Retirement
from scaler_plugin.sidecar.settings import FollowedSettings

log = structlog.get_logger(__name__)

#: Between two passes when nothing wakes the sidecar earlier: how late "busy" or "idle" may appear in etcd, against what a
#: pass costs the machine.
STEP_S = 1.0


@dataclass(frozen=True)
class SidecarReport:
    """``term`` is set while it leads; ``why`` says why the node retires or does not."""

    node: Node
    term: int | None
    etcd_away: bool
    ending: bool
    why: str


class Sidecar:
    """``leading`` is the candidacy beside it; the sidecar only ends it, when the node goes."""

    def __init__(
        self,
        identity: NodeIdentity,
        ports: NodePorts,
        settings: FollowedSettings,
        election: Election,
        registry: Registry,
        leading: Leading,
        version: str,
        concerns: Sequence[Concern] = (),
        protections: Sequence[Protection] = (),
        probing: Probing | None = None,
    ) -> None:
        self._identity = identity
        self._ports = ports
        self._clock = ports.clock
        self._settings = settings
        self._election = election
        self._registry = registry
        self._leading = leading
        self._load = LoadReport(ports.host, ports.clock)
        self._etcd = EtcdContact(election)
        self._retirement = Retirement(ports, registry, self._etcd)
        self._concerns = tuple(concerns)
        self._protections = tuple(protections)
        self._probing = probing
        self._node = Node(identity, NodeState.UP, ports.clock.now(), version=version)
        self._ending: Ending | None = None
        self._held = False  # something must still be done before the node ends
        self._was_ending = ports.gates.sealed()  # an earlier process of this boot had decided to end the machine
        self._next_refresh_at = float("-inf")

    def step(self) -> None:
        """One pass. Nothing that the outside does wrong is raised."""
        if self._ending is not None:
            self._ending.step()
            return
        self._node = replace(self._node, slots=self._ports.gates.slots(), load=self._load.current())
        self._node = replace(self._node, worked=self._node.worked or self._node.busy)
        self._follow_demands()
        if self._was_ending:
            self._end_if_unused("It was about to end when its sidecar was started again.")
            if self._ending is not None:
                return
        self._node = replace(self._node, protected=first_protection(self._protections, self._node) or "")
        try:
            self._refresh_settings()
            self._registry.publish(self._node)
            self._etcd.heard()
        except Condemned as error:
            self._end_if_unused(str(error))
        except StoreError as error:
            self._etcd.lost(error)
        self._retire_if_idle()
        self._end_if_not_needed()

    def stop(self) -> None:
        """The process is asked to end (SIGTERM): say goodbye. Never raises.

        The node's record stays under its lease: a restarted sidecar takes it up again. That of a worker that ends stays too, as
        EC2 calls the instance running until its system has stopped, and without a record it would count as one that is about to
        come. The leader removes it with the instance's end, and gets to see that of a useless node, a failed start.
        """
        self._leading.stop()
        if self._ending is not None:
            self._unregister_workers()
            if self._identity.role is not NodeRole.WORKER:
                self._registry.leave()

    @property
    def report(self) -> SidecarReport:
        """What this sidecar knows at first hand, for a person on its machine."""
        leadership = self._election.leadership
        return SidecarReport(
            self._node,
            leadership.term if leadership else None,
            self._etcd.away,
            self._ending is not None,
            self._why_it_stays(),
        )

    def _why_it_stays(self) -> str:
        if self._probing is not None:
            return self._probing.why
        return f"{self._node.reason} It stays until that is prepared." if self._held else self._retirement.why

    def _follow_demands(self) -> None:
        """Keep the gates closed while somebody demands that the node leaves; a running task is not disturbed by that."""
        demands = [demand for concern in self._concerns if (demand := concern.demand(self._node)) is not None]
        demand = strongest(demands)
        self._held = any(not demand.ready for demand in demands)
        state, reason = (demand.state, demand.reason) if demand else (NodeState.UP, "")
        if (state, reason) != (self._node.state, self._node.reason):
            log.info("node_state", state=state.value, reason=reason)
        if demand is not None:
            self._ports.gates.close()
        elif self._node.state is not NodeState.UP:
            self._ports.gates.open()
        self._node = replace(self._node, state=state, reason=reason, unfit=demand is not None and demand.unfit)

    def _refresh_settings(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_refresh_at:
            self._settings.refresh()
            policy = self._settings.policy
            self._next_refresh_at = now + (policy.poll_interval_s if policy else STEP_S)

    def _retire_if_idle(self) -> None:
        policy = self._settings.policy
        name = self._identity.pool
        if self._ending is not None or policy is None or name is None or self._identity.role is not NodeRole.WORKER:
            return
        if self._held:
            return
        # A pool that was taken out of the configuration has no queue and no minimum: its nodes go when they are idle.
        pool = policy.pool(name) or PoolPolicy(name, queues=(), max_instances=0)
        reason = self._retirement.step(self._node, policy, pool, self._node.protected or None)
        if reason is not None:
            if not self._node.leaving and self._node.idle_since is None:
                self._node = replace(self._node, unfit=True)  # its agent never came up, or did not come back
            self._end(reason)

    def _end_if_not_needed(self) -> None:
        """A probe ends by rules of its own."""
        if self._probing is not None and self._ending is None and (reason := self._probing.step()) is not None:
            self._end(reason)

    def _end_if_unused(self, reason: str) -> None:
        """The leader is terminating this instance; do not wait for it, but never end a task for it either."""
        if self._ports.gates.close():
            if not any(slot.state is SlotState.BUSY for slot in self._ports.gates.slots()):
                self._end(reason)
                return
            if not self._node.leaving:  # whoever demands that it leaves wants no further task on it
                self._ports.gates.open()

    def _end(self, reason: str) -> None:
        log.info("retiring", instance=self._identity.instance_id, reason=reason)
        self._ports.gates.seal()
        self._node = replace(self._node, state=NodeState.RETIRING, reason=reason)
        self._ending = Ending(self._identity.instance_id, reason, self._ports.host, self._ports.fleet, self._clock)
        self._leading.stop()
        if not self._etcd.away:
            self._tell(reason)
        self._ending.step()

    def _tell(self, reason: str) -> None:
        instance = self._identity.instance_id
        sentence = f"{instance} of pool {self._identity.pool} ends itself: {reason}"
        try:
            self._registry.publish(self._node)
            if self._probing is not None:
                return  # one every few minutes would push every other event out
            record(self._ports.store, self._ports.keys, Event(self._clock.now(), "retired", instance, sentence))
        except StoreError as error:
            log.warning("goodbye_not_recorded", error=str(error))

    def _unregister_workers(self) -> None:
        """Take the node's workers off ClearML's list, where they would otherwise stay for ten minutes.

        An agent that is stopped in order does so itself; this is for one that was killed.
        """
        slots = len(self._node.slots)
        try:
            server = self._ports.server()
            for slot in self._node.slots:
                server.unregister_worker(self._identity.worker_id(slot.index, slots))
        except ScalerError as error:
            log.warning("worker_not_unregistered", error=str(error))
