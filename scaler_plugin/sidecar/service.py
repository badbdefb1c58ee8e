"""The sidecar: one pass over one node. It reports, stands for election, leads while it is elected, and retires.

Guarantees: no pass waits for anything but the calls it makes; each part of a pass that fails leaves the others their turn;
all that matters is on disk (gates), in etcd or in EC2, so the process may be killed at any line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from scaler_plugin.coordination.election import Election, read_leader
from scaler_plugin.coordination.events import Event, record
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.published_view import read_view
from scaler_plugin.coordination.registry import Condemned, Registry, read_nodes
from scaler_plugin.coordination.retire_lock import claim_retirement
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import Node, NodeIdentity, NodeRole, NodeState, SlotState
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy
from scaler_plugin.core.ports import Clock, Fleet, Gates, Host, TaskServer
from scaler_plugin.core.retirement import (
    RetirementVerdict,
    Surroundings,
    idle_long_enough,
    may_leave,
    may_retire,
    needs_the_others,
)
from scaler_plugin.errors import NotLeader, StoreError, TaskServerError
from scaler_plugin.leader.service import Leader
from scaler_plugin.sidecar.load_report import LoadReport
from scaler_plugin.sidecar.retiring import Ending
from scaler_plugin.sidecar.settings import FollowedSettings

log = structlog.get_logger(__name__)

#: Between two passes when nothing wakes the sidecar earlier: how late "busy" or "idle" may appear in etcd, against what a
#: pass costs the machine.
IDLE_STEP_S = 1.0

#: A leader that has not been able to use ClearML or EC2 for so long gives others a chance, and does not stand for election
#: again for the same time. The cause may be this machine's (network, credentials), and then another one does better.
BLIND_LIMIT_S = 60.0

#: How often a node that others may need reads who they are, for the case that etcd goes away.
ACQUAINTANCE_INTERVAL_S = 60.0


@dataclass(frozen=True)
class NodePorts:
    """The outside of one node. ``fleet`` and ``server`` are made on first use: only a leader or a dying node pays for them."""

    store: Store
    gates: Gates
    host: Host
    clock: Clock
    fleet: Callable[[], Fleet]
    server: Callable[[], TaskServer]


@dataclass(frozen=True)
class SidecarReport:
    """``term`` is set while it leads; ``why`` says why the node retires or does not."""

    node: Node
    term: int | None
    etcd_away: bool
    ending: bool
    why: str


class Sidecar:
    def __init__(
        self,
        identity: NodeIdentity,
        keys: Keys,
        ports: NodePorts,
        settings: FollowedSettings,
        election: Election,
        registry: Registry,
        make_leader: Callable[[], Leader],
        version: str,
    ) -> None:
        self._identity = identity
        self._keys = keys
        self._ports = ports
        self._clock = ports.clock
        self._settings = settings
        self._election = election
        self._registry = registry
        self._make_leader = make_leader
        self._load = LoadReport(ports.host, ports.clock)
        self._leader: Leader | None = None
        self._node = Node(identity, NodeState.UP, ports.clock.now(), version=version)
        self._ending: Ending | None = None
        self._others: tuple[Node, ...] = ()
        self._others_read_at = float("-inf")
        self._etcd_away = False
        self._was_leader = False
        self._next_lead_at = float("-inf")
        self._next_refresh_at = float("-inf")
        self._abstain_until = float("-inf")
        self._why = ""

    def step(self) -> None:
        """One pass. Nothing that the outside does wrong is raised."""
        if self._ending is not None:
            self._ending.step()
            return
        self._node = replace(self._node, slots=self._ports.gates.slots(), load=self._load.current())
        try:
            self._refresh_settings()
            self._registry.publish(self._node)
            self._lead()
        except Condemned as error:
            self._end_if_unused(str(error))
            return
        except StoreError as error:
            self._heard_of_etcd(error)
        else:
            self._heard_of_etcd(None)
        self._retire_if_idle()

    def stop(self) -> None:
        """The process is asked to end (SIGTERM): say goodbye. Never raises.

        The node's record stays under its lease unless the node retires: a restarted sidecar takes it up again.
        """
        self._election.resign()
        if self._ending is not None:
            self._unregister_workers()
            self._registry.leave()

    def seconds_to_next_step(self) -> float:
        """How long the runner may sleep before the next pass if nothing wakes it."""
        if self._ending is None and self._election.leadership is not None:
            return min(IDLE_STEP_S, max(0.0, self._next_lead_at - self._clock.monotonic()))
        return IDLE_STEP_S

    @property
    def report(self) -> SidecarReport:
        """What this sidecar knows at first hand, for a person on its machine."""
        leadership = self._election.leadership
        return SidecarReport(
            self._node, leadership.term if leadership else None, self._etcd_away, self._ending is not None, self._why
        )

    def _refresh_settings(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_refresh_at:
            self._settings.refresh()
            policy = self._settings.policy
            self._next_refresh_at = now + (policy.poll_interval_s if policy else IDLE_STEP_S)

    def _heard_of_etcd(self, error: StoreError | None) -> None:
        away = error is not None
        if away != self._etcd_away:
            self._etcd_away = away
            if error is not None:
                log.warning("etcd_away", error=str(error))
            else:
                log.info("etcd_answers")
        if not away:
            self._was_leader = self._election.leadership is not None

    # --- leading

    def _lead(self) -> None:
        if self._settings.policy is None:
            return
        now = self._clock.monotonic()
        if now < self._abstain_until or self._election.step() is None:
            return
        if now < self._next_lead_at:
            return
        self._next_lead_at = now + self._settings.policy.poll_interval_s
        if self._leader is None:
            self._leader = self._make_leader()
        try:
            self._leader.step()
        except NotLeader as error:
            log.warning("stepped_down", reason=str(error))
            return
        self._hand_over_if_blind(self._leader)

    def _hand_over_if_blind(self, leader: Leader) -> None:
        if leader.blind_for_s < BLIND_LIMIT_S or not leader.has_rivals:
            return
        log.warning("handing_over", blind_for_s=round(leader.blind_for_s))
        self._abstain_until = self._clock.monotonic() + BLIND_LIMIT_S
        self._leader = None
        self._election.resign()

    # --- retiring

    def _pool(self) -> tuple[ClusterPolicy, PoolPolicy] | None:
        policy = self._settings.policy
        if policy is None or self._identity.pool is None or self._identity.role is not NodeRole.WORKER:
            return None
        # A pool that was taken out of the configuration has no queue and no minimum: its nodes go when they are idle.
        gone = PoolPolicy(self._identity.pool, queues=(), max_instances=0)
        return policy, policy.pool(self._identity.pool) or gone

    def _retire_if_idle(self) -> None:
        known = self._pool()
        if known is None:
            return
        policy, pool = known
        self._keep_acquainted(policy, pool)
        own = idle_long_enough(self._node, pool, self._etcd_away, self._clock.now())
        self._why = own.reason
        if not own.retire or not self._verdict(policy, pool).retire:
            return
        if not self._ports.gates.close():
            self._why = "An agent is asking for a task at this moment."
            return
        # Behind closed gates nothing can change any more: what is seen now is what is.
        self._node = replace(self._node, slots=self._ports.gates.slots())
        verdict = self._verdict(policy, pool)
        if verdict.retire and self._claim(policy, pool, verdict.reason):
            self._end(verdict.reason)
        else:
            self._ports.gates.open()

    def _verdict(self, policy: ClusterPolicy, pool: PoolPolicy) -> RetirementVerdict:
        backlog: int | None = None
        nodes = self._others
        if not self._etcd_away:
            try:
                backlog = self._fresh_backlog(pool)
                if needs_the_others(policy, pool):
                    nodes = self._others = read_nodes(self._ports.store, self._keys)
            except StoreError as error:
                self._heard_of_etcd(error)
        around = Surroundings(nodes, backlog, self._etcd_away, self._was_leader)
        verdict = may_retire(self._node, policy, pool, around, self._clock.now())
        self._why = verdict.reason
        return verdict

    def _fresh_backlog(self, pool: PoolPolicy) -> int | None:
        leader = read_leader(self._ports.store, self._keys)
        view = read_view(self._ports.store, self._keys)
        if leader is None or view is None or view.term != leader.term or not view.backlog_known:
            return None
        return view.backlog_of(pool)

    def _keep_acquainted(self, policy: ClusterPolicy, pool: PoolPolicy) -> None:
        now = self._clock.monotonic()
        if (
            needs_the_others(policy, pool)
            and not self._etcd_away
            and now - self._others_read_at >= ACQUAINTANCE_INTERVAL_S
        ):
            self._others_read_at = now
            try:
                self._others = read_nodes(self._ports.store, self._keys)
            except StoreError as error:
                self._heard_of_etcd(error)

    def _claim(self, policy: ClusterPolicy, pool: PoolPolicy, reason: str) -> bool:
        """Agree with the others that this node goes (protocol 4); without etcd the verdict alone has to do."""
        if self._etcd_away:
            return True
        leaving = replace(self._node, state=NodeState.RETIRING, reason=reason)
        try:
            claimed = claim_retirement(
                self._ports.store,
                self._keys,
                leaving,
                lambda nodes: may_leave(self._node, policy, pool, nodes),
                self._registry.lease,
                whole_cluster=policy.zero_mode.spans_pools,
            )
        except StoreError as error:
            self._heard_of_etcd(error)
            return False
        if claimed:
            self._node = leaving
        return claimed

    def _end_if_unused(self, reason: str) -> None:
        """The leader is terminating this instance; do not wait for it, but never end a task for it either."""
        if self._ports.gates.close():
            if not any(slot.state is SlotState.BUSY for slot in self._ports.gates.slots()):
                self._end(reason)
                return
            self._ports.gates.open()

    def _end(self, reason: str) -> None:
        log.info("retiring", instance=self._identity.instance_id, reason=reason)
        self._ending = Ending(self._identity.instance_id, reason, self._ports.host, self._ports.fleet, self._clock)
        self._election.resign()
        if not self._etcd_away:
            self._tell(reason)
        self._ending.step()

    def _tell(self, reason: str) -> None:
        instance = self._identity.instance_id
        event = Event(
            self._clock.now(), "retired", instance, f"{instance} of pool {self._identity.pool} ends itself: {reason}"
        )
        try:
            record(self._ports.store, self._keys, event)
        except StoreError as error:
            log.warning("event_not_recorded", error=str(error))

    def _unregister_workers(self) -> None:
        """Take the node's workers off ClearML's list, where they would otherwise stay for ten minutes.

        An agent that is stopped in order does so itself; this is for one that was killed.
        """
        slots = len(self._node.slots)
        try:
            server = self._ports.server()
            for slot in self._node.slots:
                server.unregister_worker(self._identity.worker_id(slot.index, slots))
        except TaskServerError as error:
            log.warning("worker_not_unregistered", error=str(error))
