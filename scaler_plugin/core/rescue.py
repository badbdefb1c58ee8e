"""Which tasks no one will ever run, and why: so that they go back to their queue with the reason on record.

Guarantees: a task that a living agent holds, or may hold, is never put back. A node may hold a task while it is in etcd and
its slot names it, while it has been asking for one for long, or while EC2 lists it alive and etcd does not know it (cut off: it
may run its task all the same). What looks stranded must look so in two sweeps at least, as the sources are not read at the same
moment. Where only silence speaks for it, it must look so, without a break and without a doubt, for the whole grace: an agent
that has just popped a task is known to hold it within that time, or its node is in doubt.

The grace runs from the first sight and not from the task's own times: a task that waited for hours may have been popped just now.

Of queues whose backlog was not read (they are configured no more, or could not be understood) only what runs on an instance is
rescued: whether a task waits there, or another cluster's agent has just taken it, nobody here can say.

Sources of the facts: the server pops a queue entry before the agent marks the task started ("limbo"), and its watchdog never
enqueues a task again (both recorded, see ``tests/recordings/clearml-api``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum

from scaler_plugin.core.housekeeping import LISTING_LAG_S, instance_of
from scaler_plugin.core.model import (
    ClearmlWorker,
    InstanceId,
    Node,
    NodeRole,
    PoolName,
    QueueName,
    ServerTask,
    SlotState,
    TaskId,
    TaskStatus,
    WorkerId,
)
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy

#: A task or a queue with this tag is left alone by every rescue.
NO_RESCUE_TAG = "scaler-no-rescue"

#: Two sightings further apart than this are not one: a task may have been popped just before the second.
SIGHTINGS_APART_S = 30.0


class Cause(str, Enum):
    LIMBO = "limbo"  # queued in no queue: popped by an agent that never started it
    INSTANCE_ENDED = "instance-ended"  # in progress on an instance that EC2 has ended
    ABANDONED = "abandoned"  # in progress on a living node that does not carry it


@dataclass(frozen=True)
class Stranded:
    """A task that looks as if no one will run it. ``on`` is the instance that had it, where that is known.

    ``since`` is when it first looked so (wall clock), ``clear_since`` since when no node is in doubt as well (monotonic, as
    wall clocks jump; ``None`` while one is). It must stay clear for ``patience_s``. ``seen_at`` is this sweep (monotonic).
    """

    task: ServerTask
    cause: Cause
    on: InstanceId | None
    sentence: str
    patience_s: float
    since: float
    clear_since: float | None
    seen_at: float


@dataclass(frozen=True)
class Duplicate:
    """One task on several nodes at once."""

    task_id: TaskId
    nodes: tuple[InstanceId, ...]


def find_stranded(
    observation: Observation,
    tasks: Sequence[ServerTask],
    policy: ClusterPolicy,
    before: Mapping[TaskId, Stranded],
    now: float,
    monotonic: float,
) -> tuple[Stranded, ...]:
    """Tasks that look stranded in this sweep.

    Args:
        observation: the pass's picture; without backlogs or an EC2 listing nothing is found.
        tasks: the open tasks of the cluster's queues, read after the backlogs.
        before: what the sweep before found.
        now, monotonic: seconds since the epoch, and of the clock that never jumps.
    """
    if observation.backlogs is None or observation.instances is None:
        return ()
    holders = _Holders(observation, policy)
    waiting = {task_id for backlog in observation.backlogs.values() for task_id in backlog.task_ids}
    left_alone = {name for name, backlog in observation.backlogs.items() if NO_RESCUE_TAG in backlog.tags}
    found = []
    for task in tasks:
        if NO_RESCUE_TAG in task.tags or task.queue in left_alone or holders.has(task.task_id):
            continue
        look: _Look | None = None
        if task.status is TaskStatus.QUEUED and task.queue in observation.backlogs and task.task_id not in waiting:
            look = _limbo(task)
        elif task.status is TaskStatus.IN_PROGRESS and task.worker_id is not None:
            look = _in_progress(task, task.worker_id, holders, observation, policy, now)
        if look is not None:
            found.append(_sighted(task, look, before.get(task.task_id), holders, policy, now, monotonic))
    return tuple(found)


def confirmed(found: Sequence[Stranded], monotonic: float) -> tuple[Stranded, ...]:
    """Those that have looked so for long enough, in two sweeps at least, and with no node in doubt."""
    return tuple(
        one
        for one in found
        if one.clear_since is not None and one.clear_since < monotonic and monotonic - one.clear_since >= one.patience_s
    )


def find_duplicates(nodes: Sequence[Node]) -> tuple[Duplicate, ...]:
    """Tasks that two or more nodes report at once."""
    on: dict[TaskId, dict[InstanceId, None]] = {}
    for node in nodes:
        for slot in node.slots:
            if slot.task_id is not None and slot.state is SlotState.BUSY:
                on.setdefault(slot.task_id, {})[node.instance_id] = None
    return tuple(Duplicate(task_id, tuple(ids)) for task_id, ids in on.items() if len(ids) > 1)


def find_ghosts(
    observation: Observation, workers: Sequence[ClearmlWorker], cluster: str, now: float
) -> tuple[WorkerId, ...]:
    """Workers of this cluster that ClearML still lists although EC2 has ended their instance."""
    if observation.instances is None:
        return ()
    listed = {instance.instance_id for instance in observation.instances}
    return tuple(
        worker.worker_id
        for worker in workers
        if worker.worker_id.startswith(f"{cluster}:")
        and (instance_id := InstanceId(instance_of(worker.worker_id)))
        and instance_id not in observation.node_ids
        and (
            instance_id in observation.ending
            or (
                instance_id not in listed
                and worker.last_report_at is not None
                and now - worker.last_report_at > LISTING_LAG_S
            )
        )
    )


@dataclass(frozen=True)
class _Look:
    """How a task looks in one sweep.

    ``certain``: EC2 itself says so. ``starter_known``: the worker that the task names is the one that started it last.
    """

    cause: Cause
    on: InstanceId | None
    sentence: str
    starter_known: bool
    certain: bool = False


class _Holders:
    """Who holds, or may hold, a task."""

    def __init__(self, observation: Observation, policy: ClusterPolicy) -> None:
        self._held = {
            slot.task_id for node in observation.live_nodes for slot in node.slots if slot.task_id is not None
        }
        self._policy = policy
        self.nodes = {node.instance_id: node for node in observation.live_nodes}
        pools = {node.pool for node in observation.live_nodes if any(s.pulling_since for s in node.slots)}
        unknown = (*observation.unrecorded, *observation.unread)
        pools |= {instance.pool for instance in unknown if instance.role is NodeRole.WORKER}
        self._in_doubt = self._queues_of(pools)
        self._someone_in_doubt = bool(pools)
        # Their agents may poll before their sidecars have registered, or without ever reaching etcd.
        awaited = {i for launch in observation.launches for i in launch.awaited} - observation.node_ids
        self._awaited = [
            (instance.launched_at, self._queues_of({instance.pool}))
            for instance in observation.instances or ()
            if instance.instance_id in awaited and not instance.state.ending
        ]

    def has(self, task_id: TaskId) -> bool:
        return task_id in self._held

    def may_have_popped(self, queue: QueueName | None, since: float) -> bool:
        """Whether some node may have popped a task of this queue before ``since`` without anybody knowing yet."""
        if queue is None:
            return True
        if queue not in self._policy.queues:
            # One that is configured no more is in no pool's list, and its old nodes may serve it yet.
            return self._someone_in_doubt or any(launched_at < since for launched_at, _ in self._awaited)
        return queue in self._in_doubt or any(
            launched_at < since and queue in queues for launched_at, queues in self._awaited
        )

    def _queues_of(self, pools: AbstractSet[PoolName | None]) -> frozenset[QueueName]:
        known = [self._policy.pool(name) for name in pools]
        # A pool that is no longer configured may serve any queue.
        return frozenset(q for pool in known for q in (pool.queues if pool else self._policy.queues))


def _sighted(
    task: ServerTask,
    look: _Look,
    before: Stranded | None,
    holders: _Holders,
    policy: ClusterPolicy,
    now: float,
    monotonic: float,
) -> Stranded:
    """The look with its history: since when the task has looked the same, and since when that is beyond doubt."""
    same = (
        before is not None
        and monotonic - before.seen_at <= SIGHTINGS_APART_S
        and (before.cause, before.on) == (look.cause, look.on)
        and before.task.status_changed_at == task.status_changed_at
    )
    since = before.since if before is not None and same else now
    clear_since: float | None = None
    if look.starter_known or not holders.may_have_popped(task.queue, since):
        clear_since = (
            before.clear_since if before is not None and same and before.clear_since is not None else monotonic
        )
    patience_s = 0.0 if look.certain and look.starter_known else policy.rescue_grace_s
    return Stranded(task, look.cause, look.on, look.sentence, patience_s, since, clear_since, monotonic)


def _limbo(task: ServerTask) -> _Look:
    return _Look(
        Cause.LIMBO,
        None,
        f"Task {task.task_id} was taken from queue {task.queue} and never started; no agent holds it.",
        starter_known=False,
    )


def _in_progress(
    task: ServerTask,
    worker_id: WorkerId,
    holders: _Holders,
    observation: Observation,
    policy: ClusterPolicy,
    now: float,
) -> _Look | None:
    if not worker_id.startswith(f"{policy.cluster}:"):
        return None
    instance_id = InstanceId(instance_of(worker_id))
    if not instance_id:
        return None
    heard_at = max(task.status_changed_at, task.last_update_at)
    # An agent starts a task first and reports it a moment later: until then the task names the worker of its last run.
    starter_known = task.last_update_at > task.status_changed_at
    listed = {instance.instance_id for instance in observation.instances or ()}
    if instance_id in observation.ending or (
        instance_id not in listed and instance_id not in holders.nodes and now - heard_at > LISTING_LAG_S
    ):
        what = f"Task {task.task_id} ran on {instance_id}, which EC2 has ended."
        return _Look(Cause.INSTANCE_ENDED, instance_id, what, starter_known, certain=instance_id in observation.ending)
    node = holders.nodes.get(instance_id)
    # Its agent, if it had the task, would have reported it: a second witness beside the node's own record.
    if node is None or not _knows_its_slots(node) or now - heard_at < policy.rescue_grace_s:
        return None
    what = f"Task {task.task_id} is in progress on {instance_id}, where no process or container carries it."
    return _Look(Cause.ABANDONED, instance_id, what, starter_known)


def _knows_its_slots(node: Node) -> bool:
    """False while something unnamed runs on the node, or an agent is between "popped" and "busy"."""
    return bool(node.slots) and not any(
        slot.pulling_since is not None
        or slot.state is SlotState.STARTING
        or (slot.state is SlotState.BUSY and slot.task_id is None)
        for slot in node.slots
    )
