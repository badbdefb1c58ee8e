"""Makes the report: a pure function of what etcd held and of the time.

Nodes, launches and pauses are as of this moment. What only the leader can know (waiting tasks, instances as EC2 lists them)
comes from its published view, and ``view.fresh`` says whether that view's term is the one that leads now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from scaler_plugin.core.model import (
    Launch,
    LaunchRequest,
    Market,
    Node,
    NodeRole,
    NodeState,
    PoolName,
    Slot,
    SlotState,
)
from scaler_plugin.core.view import PoolView, QueueView
from scaler_plugin.status.problems import list_problems
from scaler_plugin.status.reading import ClusterRecords
from scaler_plugin.status.report import (
    FORMAT,
    Doing,
    EventStatus,
    LaunchStatus,
    LeaderStatus,
    NodeStatus,
    PoolStatus,
    QueueStatus,
    SlotStatus,
    StatusReport,
    ViewStatus,
)
from scaler_plugin.status.zero import look_at_zero

#: So many of the cluster's last events are part of a report.
EVENTS_SHOWN = 20


def make_report(records: ClusterRecords, now: float) -> StatusReport:
    """The report. ``now`` in seconds since the epoch."""
    leader, view = records.leader, records.view
    nodes = [_node(node, leader.candidate if leader else None, now) for node in records.nodes]
    fresh = leader is not None and view is not None and view.term == leader.term
    queues = tuple(_queue(queue, records, fresh, now) for queue in _known_queues(records))
    pools = _pools(records, nodes, queues, fresh, now)
    order = {pool.name: number for number, pool in enumerate(pools)}
    policy, zero = records.policy, look_at_zero(records, now)
    return StatusReport(
        format=FORMAT,
        cluster=records.cluster,
        at=now,
        leader=LeaderStatus(leader.candidate, leader.term, leader.since, _ago(leader.since, now)) if leader else None,
        view=ViewStatus(view.term, fresh, view.config_revision, view.backlog_known) if view else None,
        config_revision=records.config_revision,
        instances=sum(pool.instances for pool in pools),
        max_instances=view.max_instances if view else policy.max_instances if policy else None,
        queues=queues,
        pools=pools,
        launches=tuple(_launch(launch, records.node_ids, now) for launch in records.launches),
        nodes=tuple(sorted(nodes, key=lambda node: _node_order(node, order))),
        problems=list_problems(records, fresh, zero, now),
        events=tuple(
            EventStatus(event.at, event.kind, event.about, event.sentence) for event in records.events[-EVENTS_SHOWN:]
        ),
        zero=zero,
    )


def _ago(then: float, now: float) -> float:
    return round(max(0.0, now - then), 1)


_DOING = tuple(Doing)


def _node_order(node: NodeStatus, pools: Mapping[str, int]) -> tuple[int, str, int, float, str]:
    """Pool by pool as configured, standbys last; in a pool by what the node does, the longest first."""
    name = node.pool or ""
    position = len(pools) + 1 if node.doing is Doing.STANDBY else pools.get(name, len(pools))
    return position, name, _DOING.index(node.doing), -(node.for_s or 0.0), node.instance_id


def _known_queues(records: ClusterRecords) -> tuple[QueueView, ...]:
    if records.view is not None:
        return records.view.queues
    return tuple(QueueView(queue, 0) for queue in records.policy.queues) if records.policy else ()


def _queue(queue: QueueView, records: ClusterRecords, fresh: bool, now: float) -> QueueStatus:
    view = records.view
    known = view is not None and view.backlog_known
    pools = view.pools if view else records.policy.pools if records.policy else ()
    return QueueStatus(
        name=queue.name,
        waiting=queue.waiting if known else None,
        oldest_since=queue.oldest_since if known else None,
        oldest_wait_s=_ago(queue.oldest_since, now) if known and queue.oldest_since is not None else None,
        unserved=queue.unserved if fresh else "",
        pools=tuple(pool.name for pool in pools if queue.name in pool.queues),
    )


def _pools(
    records: ClusterRecords, nodes: Iterable[NodeStatus], queues: Iterable[QueueStatus], fresh: bool, now: float
) -> tuple[PoolStatus, ...]:
    """The configured pools in their order, then those that only nodes or launches still know."""
    views = _configured_pools(records)
    nodes_of: dict[str, list[NodeStatus]] = {name: [] for name in views}
    for node in nodes:
        if node.role is NodeRole.WORKER:
            nodes_of.setdefault(node.pool or "", []).append(node)
    booting = dict.fromkeys(nodes_of, 0)
    for launch in records.launches:
        booting[launch.pool] = booting.get(launch.pool, 0) + _still_to_register(launch, records)
    waiting = {queue.name: queue.waiting for queue in queues}
    pauses = {cooldown.pool: cooldown.until for cooldown in records.cooldowns if cooldown.until > now}
    return tuple(
        _pool(name, views.get(name), fresh, nodes_of.get(name, ()), to_come, waiting, pauses.get(PoolName(name)), now)
        for name, to_come in booting.items()
    )


def _configured_pools(records: ClusterRecords) -> dict[str, PoolView]:
    if records.view is not None:
        return {pool.name: pool for pool in records.view.pools}
    pools = records.policy.pools if records.policy else ()
    return {p.name: PoolView(p.name, p.queues, 0, 0, 0, p.min_instances, p.max_instances) for p in pools}


def _still_to_register(launch: Launch, records: ClusterRecords) -> int:
    if launch.instance_ids:
        return sum(1 for instance_id in launch.awaited if instance_id not in records.node_ids)
    return max(0, launch.count - records.registered_of[launch.launch_id])


def _pool(
    name: str,
    view: PoolView | None,
    fresh: bool,
    nodes: Iterable[NodeStatus],
    to_come: int,
    waiting: Mapping[str, int | None],
    paused_until: float | None,
    now: float,
) -> PoolStatus:
    count = dict.fromkeys(Doing, 0)
    slots = busy_slots = 0
    longest_idle: float | None = None
    for node in nodes:
        count[node.doing] += 1
        slots += len(node.slots)
        busy_slots += sum(1 for slot in node.slots if slot.state is SlotState.BUSY)
        if node.doing is Doing.IDLE and node.idle_for_s is not None:
            longest_idle = max(longest_idle or 0.0, node.idle_for_s)
    waits = [waiting.get(queue) for queue in view.queues] if view else []
    seen = sum(count.values()) + to_come
    return PoolStatus(
        name=name,
        queues=tuple(view.queues) if view else (),
        waiting=None if None in waits else sum(wait or 0 for wait in waits),
        busy=count[Doing.BUSY],
        idle=count[Doing.IDLE],
        booting=count[Doing.BOOTING] + to_come,
        retiring=count[Doing.RETIRING] + count[Doing.DRAINING] + count[Doing.INTERRUPTED],
        down=count[Doing.DOWN],
        # EC2 may list instances that have no record at all; they are paid for, too.
        instances=max(seen, view.instances) if view and fresh else seen,
        min_instances=view.min_instances if view else None,
        max_instances=view.max_instances if view else None,
        slots=slots,
        busy_slots=busy_slots,
        longest_idle_s=longest_idle,
        paused_until=paused_until,
        pause_left_s=round(paused_until - now, 1) if paused_until else None,
    )


def _node(node: Node, leader: str | None, now: float) -> NodeStatus:
    identity, doing = node.identity, _doing(node)
    return NodeStatus(
        instance_id=identity.instance_id,
        role=identity.role,
        pool=identity.pool,
        instance_type=identity.instance_type,
        market=identity.market,
        zone=identity.zone,
        state=node.state,
        reason=node.reason,
        doing=doing,
        for_s=_doing_for(node, doing, now),
        idle_for_s=_ago(node.idle_since, now) if node.idle_since is not None else None,
        leads=identity.instance_id == leader,
        registered_at=node.registered_at,
        age_s=_ago(node.registered_at, now),
        launch_id=identity.launch_id,
        version=node.version,
        load=node.load,
        slots=tuple(_slot(slot, now) for slot in node.slots),
        protected=node.protected,
    )


def _slot(slot: Slot, now: float) -> SlotStatus:
    return SlotStatus(slot.index, slot.state, slot.since, _ago(slot.since, now), slot.task_id, slot.queue)


_LEAVING = {
    NodeState.DRAINING: Doing.DRAINING,
    NodeState.INTERRUPTED: Doing.INTERRUPTED,
    NodeState.RETIRING: Doing.RETIRING,
}


def _doing(node: Node) -> Doing:
    if node.state in _LEAVING:
        return _LEAVING[node.state]
    if node.identity.role is not NodeRole.WORKER:
        return Doing.STANDBY
    states = {slot.state for slot in node.slots}
    if SlotState.BUSY in states:
        return Doing.BUSY
    if SlotState.IDLE in states:
        return Doing.IDLE
    return Doing.DOWN if SlotState.DOWN in states and SlotState.STARTING not in states else Doing.BOOTING


_SLOT_STATES_OF = {
    Doing.BUSY: SlotState.BUSY,
    Doing.IDLE: SlotState.IDLE,
    Doing.BOOTING: SlotState.STARTING,
    Doing.DOWN: SlotState.DOWN,
}


def _doing_for(node: Node, doing: Doing, now: float) -> float | None:
    """For how long it has done so; its longest-running slot counts. Unknown for a node that is leaving."""
    if doing is Doing.STANDBY:
        return _ago(node.registered_at, now)
    if doing is Doing.IDLE and node.idle_since is not None:
        return _ago(node.idle_since, now)
    state = _SLOT_STATES_OF.get(doing)
    return max((_ago(slot.since, now) for slot in node.slots if slot.state is state), default=None)


def _launch(launch: Launch, registered: frozenset[str], now: float) -> LaunchStatus:
    attempt = launch.attempts[-1] if launch.attempts else None
    request: LaunchRequest | None = attempt.request if attempt else next(iter(launch.candidates), None)
    errors = [attempt.error for attempt in launch.attempts if attempt.error is not None]
    return LaunchStatus(
        launch_id=launch.launch_id,
        pool=launch.pool,
        count=launch.count,
        phase="booting" if launch.instance_ids else "asking EC2",
        instance_type=request.instance_type if request else "",
        market=request.market if request else Market.ON_DEMAND,
        zone=request.zone if request else None,
        candidate=len(launch.attempts),
        candidates=len(launch.candidates),
        reason=launch.reason,
        created_at=launch.created_at,
        age_s=_ago(launch.created_at, now),
        awaited=tuple(i for i in launch.awaited if i not in registered),
        last_error=errors[-1] if errors else None,
    )
