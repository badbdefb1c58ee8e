"""Which instances to terminate because they will never be of use, and which records to remove because their subject is gone.

Guarantees: an instance is terminated only on two witnesses, etcd (no node record) **and** ClearML (no sign of a task
on it); when ClearML could not be read, nothing is terminated. An instance that does useful work without a record
is left alone and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scaler_plugin.core.census import may_register_until
from scaler_plugin.core.model import (
    ClearmlWorker,
    InstanceId,
    LaunchId,
    Node,
    NodeRole,
    PoolName,
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


@dataclass(frozen=True)
class Suspect:
    """An instance that should have registered its node and has not. ``launch_id`` is set while a launch awaits it."""

    instance_id: InstanceId
    pool: PoolName | None
    launch_id: LaunchId | None
    cause: str


@dataclass(frozen=True)
class Working:
    """A suspect that ClearML says runs a task: never terminated."""

    suspect: Suspect
    worker_id: WorkerId
    task_id: TaskId


@dataclass(frozen=True)
class Verdict:
    condemned: tuple[Suspect, ...]
    working: tuple[Working, ...]


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
            suspects += [
                Suspect(i, launch.pool, launch.launch_id, cause)
                for i in launch.awaited
                if i not in observation.node_ids and i not in observation.ending
            ]
    return suspects


def _orphans(observation: Observation, policy: ClusterPolicy, now: float) -> list[Suspect]:
    suspects = []
    for instance in observation.unrecorded:
        first_seen = observation.unrecorded_since.get(instance.instance_id, now)
        timeout = _startup_timeout(policy, instance.pool)
        if now >= may_register_until(instance, first_seen, timeout):
            cause = "is tagged as part of the cluster, but neither a node nor a launch record knows it"
            suspects.append(Suspect(instance.instance_id, instance.pool, None, cause))
    return suspects


def _startup_timeout(policy: ClusterPolicy, pool: PoolName | None) -> float:
    known = policy.pool(pool)
    return known.startup_timeout_s if known else ORPHAN_STARTUP_TIMEOUT_S


def judge(
    suspects: Sequence[Suspect],
    workers: Sequence[ClearmlWorker],
    tasks: Sequence[ServerTask],
    lost_after_s: float,
    now: float,
) -> Verdict:
    """The second witness: a suspect is condemned unless ClearML has heard of a task on it within ``lost_after_s``.

    Both lists are asked, as a worker that reports no more leaves the server's list after 600 s while its task may go on.
    """
    at_work: dict[str, tuple[WorkerId, TaskId]] = {}
    for task in tasks:
        if (
            task.status is TaskStatus.IN_PROGRESS
            and task.worker_id is not None
            and now - max(task.last_update_at, task.status_changed_at) < lost_after_s
        ):
            at_work[instance_of(task.worker_id)] = (task.worker_id, task.task_id)
    for worker in workers:
        if worker.task_id is not None:
            at_work[instance_of(worker.worker_id)] = (worker.worker_id, worker.task_id)
    condemned, working = [], []
    for suspect in suspects:
        if suspect.instance_id in at_work:
            working.append(Working(suspect, *at_work[suspect.instance_id]))
        else:
            condemned.append(suspect)
    return Verdict(tuple(condemned), tuple(working))


def instance_of(worker_id: WorkerId) -> str:
    """The instance id in a worker id ``<cluster>:<pool>:<instance-type>:<instance-id>[:<slot>]``; empty if it is not ours."""
    parts = worker_id.split(":")
    return parts[3] if len(parts) in (4, 5) else ""


def find_gone_nodes(observation: Observation, now: float) -> tuple[Node, ...]:
    """Worker nodes whose instance EC2 reports as terminated, or no longer lists although it is old enough to be listed.

    A node that is still shutting down keeps its record: it may yet report why it ends.
    """
    if observation.instances is None:
        return ()
    listed = {i.instance_id: i for i in observation.instances}
    return tuple(
        node
        for node in observation.nodes
        if node.identity.role is NodeRole.WORKER
        and now - node.registered_at > LISTING_LAG_S
        and (node.instance_id not in listed or listed[node.instance_id].state.ending)
    )
