"""Which instances to terminate because they will never be of use, and which records to remove because their subject is gone.

Guarantees: an instance is terminated only on two witnesses, etcd (no node record) **and** ClearML (no sign of a task
on it, and for ``lost_after_s`` none of an agent that could pull one); when ClearML could not be read, nothing is terminated.
An instance that does useful work without a record is left alone and reported, and so is one that may be cut off from etcd only.
Not guaranteed: that an agent which still asks for tasks after ``lost_after_s`` pulls none between ClearML's answer and the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from scaler_plugin.core.census import may_register_until
from scaler_plugin.core.model import (
    Backlog,
    ClearmlWorker,
    InstanceId,
    InstanceState,
    Launch,
    LaunchId,
    Node,
    NodeRole,
    PoolName,
    QueueName,
    ServerTask,
    TaskId,
    TaskStatus,
    WorkerId,
)
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy

#: EC2 may not list an instance for some seconds after it started; a node younger than this is never called gone.
LISTING_LAG_S = 60.0

#: Startup timeout for an instance whose pool is no longer in the configuration.
ORPHAN_STARTUP_TIMEOUT_S = 600.0

#: An idle agent reports every 30 s: three reports missed in a row, and nobody asks for tasks there any more. An agent that has
#: popped a task starts and reports it well within the same time, or stands still.
AGENT_SILENT_S = 90.0


@dataclass(frozen=True)
class Suspect:
    """An instance that should have registered its node by ``overdue_since`` and has not. ``launch_id`` is set while a launch
    awaits it."""

    instance_id: InstanceId
    pool: PoolName | None
    launch_id: LaunchId | None
    cause: str
    overdue_since: float


@dataclass(frozen=True)
class Working:
    """A suspect that ClearML says runs a task: never terminated."""

    suspect: Suspect
    worker_id: WorkerId
    task_id: TaskId


@dataclass(frozen=True)
class Evidence:
    """What ClearML says of suspects, read in this order: a task on its way from a queue to an agent shows in one of the lists.

    ``tasks`` has all that are in progress; ``all_queued`` is false when there were too many queued ones to read.
    """

    workers: Sequence[ClearmlWorker]
    tasks: Sequence[ServerTask]
    backlogs: Mapping[QueueName, Backlog]
    all_queued: bool = True


@dataclass(frozen=True)
class Verdict:
    """``asking`` are those whose agent lives: it may pull a task at any moment, or has just done so."""

    condemned: tuple[Suspect, ...]
    working: tuple[Working, ...]
    asking: tuple[Suspect, ...] = ()


def find_suspects(observation: Observation, policy: ClusterPolicy, now: float) -> tuple[Suspect, ...]:
    """Instances past their time to register: those that a launch awaits, and those in no record at all."""
    if observation.instances is None:
        return ()
    return (*_late(observation, policy, now), *_orphans(observation, policy, now))


def _late(observation: Observation, policy: ClusterPolicy, now: float) -> list[Suspect]:
    suspects = []
    for launch in observation.launches:
        if not launch.awaited:
            continue
        waited = now - launch.awaited_since
        timeout = _startup_timeout(policy, launch.pool)
        if waited >= timeout:
            cause = f"did not register within its startup_timeout of {timeout:.0f} s"
            vanished = find_vanished(launch, observation, policy, now)
            suspects += [
                Suspect(i, launch.pool, launch.launch_id, cause, launch.awaited_since + timeout)
                for i in launch.awaited
                if i not in observation.node_ids and i not in observation.ending and i not in vanished
            ]
    return suspects


def find_vanished(launch: Launch, observation: Observation, policy: ClusterPolicy, now: float) -> frozenset[InstanceId]:
    """Awaited instances past their time that EC2 does not list, although they are old enough to be listed.

    They have ended long ago, or lost the cluster's tag, without which nobody of the cluster may end them: to wait for them, or to
    ask EC2 for their end, is in vain.
    """
    patience_s = max(_startup_timeout(policy, launch.pool), LISTING_LAG_S)
    if observation.instances is None or now - launch.awaited_since < patience_s:
        return frozenset()
    return frozenset(launch.awaited) - {i.instance_id for i in observation.instances} - observation.node_ids


def _orphans(observation: Observation, policy: ClusterPolicy, now: float) -> list[Suspect]:
    suspects = []
    for instance in observation.unrecorded:
        first_seen = observation.unrecorded_since.get(instance.instance_id, now)
        timeout = _startup_timeout(policy, instance.pool)
        overdue_since = may_register_until(instance, first_seen, timeout)
        if now >= overdue_since:
            cause = "is tagged as part of the cluster, but neither a node nor a launch record knows it"
            suspects.append(Suspect(instance.instance_id, instance.pool, None, cause, overdue_since))
    return suspects


def _startup_timeout(policy: ClusterPolicy, pool: PoolName | None) -> float:
    known = policy.pool(pool)
    return known.startup_timeout_s if known else ORPHAN_STARTUP_TIMEOUT_S


def judge(
    suspects: Sequence[Suspect],
    seen: Evidence,
    policy: ClusterPolicy,
    popped_since: Mapping[TaskId, float],
    now: float,
) -> Verdict:
    """The second witness. A suspect is spared

    - while ClearML has heard of a task on it within ``lost_after_s``. Both lists are asked, as a worker that reports no more leaves
      the server's list after 600 s while its task may go on;
    - while its agent lives, until it has been overdue for ``lost_after_s``: a node that is cut off from etcd alone looks like
      that, and its agent pulls through an open gate;
    - and later than that, while its agent lives and a task of its queues has just been taken by nobody knows whom.

    Args:
        suspects: from :func:`find_suspects`.
        seen: ClearML's lists, read after the suspects were found.
        policy: ``lost_after_s``, and which queues a pool serves.
        popped_since: from :func:`follow_popped`, of the same lists.
        now: seconds since the epoch.
    """
    at_work = _at_work(seen, policy.lost_after_s, now)
    living = {
        instance_of(worker.worker_id)
        for worker in seen.workers
        if worker.last_report_at is None or now - worker.last_report_at < AGENT_SILENT_S
    }
    popped: set[QueueName | None] = set() if seen.all_queued else {None}  # of any queue, for all that is known
    popped |= {
        task.queue for task in seen.tasks if now - popped_since.get(task.task_id, float("-inf")) < AGENT_SILENT_S
    }
    condemned, working, asking = [], [], []
    for suspect in suspects:
        if suspect.instance_id in at_work:
            working.append(Working(suspect, *at_work[suspect.instance_id]))
        elif suspect.instance_id in living and (
            now - suspect.overdue_since < policy.lost_after_s or _serves_one_of(suspect, popped, policy)
        ):
            asking.append(suspect)
        else:
            condemned.append(suspect)
    return Verdict(tuple(condemned), tuple(working), tuple(asking))


def follow_popped(seen: Evidence, before: Mapping[TaskId, float], now: float) -> Mapping[TaskId, float]:
    """Tasks that were taken from a queue and of which no agent has said yet that it has them, and since when they look so.

    One that no agent will ever start looks so for ever: hence the time, beyond which it is no sign of an agent any more.
    """
    waiting = {task_id for backlog in seen.backlogs.values() for task_id in backlog.task_ids}
    return {
        task.task_id: before.get(task.task_id, now)
        for task in seen.tasks
        if (task.status is TaskStatus.QUEUED and task.task_id not in waiting)
        # An agent starts a task first and reports it a moment later: until then the task names the worker of its last run.
        or (task.status is TaskStatus.IN_PROGRESS and task.last_update_at <= task.status_changed_at)
    }


def _at_work(seen: Evidence, lost_after_s: float, now: float) -> Mapping[str, tuple[WorkerId, TaskId]]:
    """The instances that ClearML has heard of a task on."""
    at_work = {
        instance_of(task.worker_id): (task.worker_id, task.task_id)
        for task in seen.tasks
        if task.status is TaskStatus.IN_PROGRESS
        and task.worker_id is not None
        and now - max(task.last_update_at, task.status_changed_at) < lost_after_s
    }
    for worker in seen.workers:
        if worker.task_id is not None:
            at_work[instance_of(worker.worker_id)] = (worker.worker_id, worker.task_id)
    return at_work


def _serves_one_of(suspect: Suspect, queues: AbstractSet[QueueName | None], policy: ClusterPolicy) -> bool:
    pool = policy.pool(suspect.pool)
    # A pool that is no longer configured may serve any queue, and a task of which no queue is known may be of any.
    return bool(queues) and (pool is None or None in queues or not queues.isdisjoint(pool.queues))


def instance_of(worker_id: WorkerId) -> str:
    """The instance id in a worker id ``<cluster>:<pool>:<instance-type>:<instance-id>[:<slot>]``; empty if it is not ours."""
    parts = worker_id.split(":")
    return parts[3] if len(parts) in (4, 5) else ""


def find_gone_nodes(observation: Observation, now: float) -> tuple[Node, ...]:
    """Worker nodes whose instance EC2 reports as terminated, or no longer lists although it is old enough to be listed.

    A node that is still shutting down keeps its record: it may yet report why it ends, and its sidecar would write it again.
    """
    if observation.instances is None:
        return ()
    listed = {i.instance_id: i for i in observation.instances}
    return tuple(
        node
        for node in observation.nodes
        if node.identity.role is NodeRole.WORKER
        and now - node.registered_at > LISTING_LAG_S
        and (node.instance_id not in listed or listed[node.instance_id].state is InstanceState.TERMINATED)
    )
