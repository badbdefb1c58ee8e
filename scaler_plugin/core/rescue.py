"""Which tasks no one will ever run, and why: so that they go back to their queue with the reason on record.

Guarantees: a task that a living agent holds, or may hold, is never among them. A node may hold a task while it is in etcd and
its slot names it, while it has been asking for one for long, or while EC2 lists it alive and etcd does not know it (cut off: it
may run its task all the same). What looks stranded must look so twice before anything is done: the sources are not read
at the same moment.

Sources of the facts: the server pops a queue entry before the agent marks the task started ("limbo"), and its watchdog never
enqueues a task again (both recorded, see ``tests/recordings/clearml-api``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from scaler_plugin.core.housekeeping import LISTING_LAG_S, instance_of
from scaler_plugin.core.model import (
    ClearmlWorker,
    InstanceId,
    Node,
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


class Cause(str, Enum):
    LIMBO = "limbo"  # queued in no queue: popped by an agent that never started it
    INSTANCE_ENDED = "instance-ended"  # in progress on an instance that EC2 has ended
    ABANDONED = "abandoned"  # in progress on a living node that does not carry it


@dataclass(frozen=True)
class Stranded:
    """A task that looks as if no one will run it. ``on`` is the instance that had it, where that is known."""

    task: ServerTask
    cause: Cause
    on: InstanceId | None
    sentence: str


@dataclass(frozen=True)
class Duplicate:
    """One task on several nodes at once."""

    task_id: TaskId
    nodes: tuple[InstanceId, ...]


def find_stranded(
    observation: Observation, tasks: Sequence[ServerTask], policy: ClusterPolicy, now: float
) -> tuple[Stranded, ...]:
    """Tasks that look stranded in this pass.

    Args:
        observation: the pass's picture; without backlogs or an EC2 listing nothing is found.
        tasks: the open tasks of the cluster's queues, read after the backlogs.
        now: seconds since the epoch.
    """
    if observation.backlogs is None or observation.instances is None:
        return ()
    holders = _Holders(observation, policy)
    waiting = {task_id for backlog in observation.backlogs.values() for task_id in backlog.task_ids}
    found = []
    for task in tasks:
        if NO_RESCUE_TAG in task.tags or holders.has(task.task_id):
            continue
        if task.status is TaskStatus.QUEUED and task.task_id not in waiting:
            if now - task.status_changed_at >= policy.rescue_grace_s and not holders.may_be_pulling(task.queue):
                found.append(_limbo(task))
        elif task.status is TaskStatus.IN_PROGRESS and task.worker_id is not None:
            stranded = _in_progress(task, task.worker_id, holders, observation, policy, now)
            if stranded is not None:
                found.append(stranded)
    return tuple(found)


def confirmed(found: Sequence[Stranded], before: Mapping[TaskId, Stranded]) -> tuple[Stranded, ...]:
    """Those that looked the same in the sweep before, with no change of the task in between."""
    return tuple(
        one
        for one in found
        if (earlier := before.get(one.task.task_id)) is not None
        and earlier.cause is one.cause
        and earlier.task.status_changed_at == one.task.status_changed_at
    )


def find_duplicates(nodes: Sequence[Node]) -> tuple[Duplicate, ...]:
    """Tasks that two or more nodes report at once."""
    on: dict[TaskId, list[InstanceId]] = {}
    for node in nodes:
        for slot in node.slots:
            if slot.task_id is not None and slot.state is SlotState.BUSY:
                on.setdefault(slot.task_id, []).append(node.instance_id)
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
            or (instance_id not in listed and now - (worker.last_report_at or 0.0) > LISTING_LAG_S)
        )
    )


class _Holders:
    """Who holds, or may hold, a task."""

    def __init__(self, observation: Observation, policy: ClusterPolicy) -> None:
        self._held = {
            slot.task_id for node in observation.live_nodes for slot in node.slots if slot.task_id is not None
        }
        self._queues_in_doubt: set[QueueName] = set()
        self.nodes = {node.instance_id: node for node in observation.live_nodes}
        pools_in_doubt = {node.pool for node in observation.live_nodes if any(s.pulling_since for s in node.slots)}
        pools_in_doubt |= {instance.pool for instance in observation.unrecorded}
        for name in pools_in_doubt:
            pool = policy.pool(name)
            # A pool that is no longer configured may serve any queue.
            self._queues_in_doubt.update(pool.queues if pool else policy.queues)

    def has(self, task_id: TaskId) -> bool:
        return task_id in self._held

    def may_be_pulling(self, queue: QueueName | None) -> bool:
        """Whether some node may have popped a task of this queue without anybody knowing yet."""
        return queue is None or queue in self._queues_in_doubt


def _limbo(task: ServerTask) -> Stranded:
    return Stranded(
        task,
        Cause.LIMBO,
        None,
        f"Task {task.task_id} was taken from queue {task.queue} and never started; no agent holds it.",
    )


def _in_progress(
    task: ServerTask,
    worker_id: WorkerId,
    holders: _Holders,
    observation: Observation,
    policy: ClusterPolicy,
    now: float,
) -> Stranded | None:
    if not worker_id.startswith(f"{policy.cluster}:"):
        return None
    instance_id = InstanceId(instance_of(worker_id))
    if not instance_id:
        return None
    listed = {instance.instance_id for instance in observation.instances or ()}
    if instance_id in observation.ending or (
        instance_id not in listed and instance_id not in holders.nodes and now - task.status_changed_at > LISTING_LAG_S
    ):
        what = f"Task {task.task_id} ran on {instance_id}, which EC2 has ended."
        return Stranded(task, Cause.INSTANCE_ENDED, instance_id, what)
    node = holders.nodes.get(instance_id)
    if node is None or not _knows_its_slots(node) or now - task.status_changed_at < policy.rescue_grace_s:
        return None
    what = f"Task {task.task_id} is in progress on {instance_id}, where no process or container carries it."
    return Stranded(task, Cause.ABANDONED, instance_id, what)


def _knows_its_slots(node: Node) -> bool:
    """False while something unnamed runs on the node, or an agent is between "popped" and "busy"."""
    return bool(node.slots) and not any(
        slot.pulling_since is not None
        or slot.state is SlotState.STARTING
        or (slot.state is SlotState.BUSY and slot.task_id is None)
        for slot in node.slots
    )
