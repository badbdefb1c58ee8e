"""What becomes of a task whose node is about to be taken, once nothing of it runs there any more.

It goes back to its queue if it was still to be done: in progress with our worker, or stopped because *we* asked for that. A task
that ended by itself, that somebody has dealt with, or that runs elsewhere by now is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from scaler_plugin.core.model import InstanceId, QueueName, ServerTask, TaskId, TaskStatus, WorkerId
from scaler_plugin.core.rescue import NO_RESCUE_TAG


@dataclass(frozen=True)
class Handback:
    """The promise to put a task back, written to etcd *before* its agent is asked to stop it.

    From then on the task may be ``stopped``, which looks like a person's doing and which no rescue touches: should the node end
    before it has kept the promise, the leader keeps it. ``requeues`` is the task's count when the promise was made.
    """

    task_id: TaskId
    instance_id: InstanceId
    worker_id: WorkerId
    queue: QueueName
    requeues: int
    reason: str
    promised_at: float


class HandbackAct(str, Enum):
    REQUEUE = "requeue"
    FAIL = "fail"  # put back too often already
    LEAVE = "leave"


@dataclass(frozen=True)
class HandbackVerdict:
    act: HandbackAct
    why: str


def judge_handback(
    task: ServerTask | None, worker_id: WorkerId, promise: Handback | None, max_requeues: int
) -> HandbackVerdict:
    """Decide about a task that no longer runs on the node.

    Args:
        task: as the server has it now; ``None`` if it does not exist or is in a status that is none of ours.
        worker_id: the worker that ran it.
        promise: what was promised, if the agent was asked to stop it.
        max_requeues: how often a task is put back before it is marked as failed.
    """
    if task is None:
        return _leave("it is gone from the server")
    if task.worker_id != worker_id:
        return _leave("another worker has it")
    if promise is not None and task.requeues != promise.requeues:
        return _leave("it was put back already")
    ours = task.status is TaskStatus.IN_PROGRESS or (
        promise is not None and task.status in (TaskStatus.STOPPED, TaskStatus.FAILED)
    )
    if not ours:
        return _leave(f"it is {task.status.value}")
    if NO_RESCUE_TAG in task.tags:
        return _leave(f"its tag {NO_RESCUE_TAG} says so")
    if task.requeues >= max_requeues:
        return HandbackVerdict(HandbackAct.FAIL, f"it was put back {task.requeues} times already")
    return HandbackVerdict(HandbackAct.REQUEUE, "it was still to be done")


def _leave(why: str) -> HandbackVerdict:
    return HandbackVerdict(HandbackAct.LEAVE, why)
