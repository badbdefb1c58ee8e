"""Whether a worker may hold a task, from what the ClearML server says while the worker stands still: pure.

Guarantees: ``None`` only if every open task of the queues is accounted for by somebody else (it waits in a queue, or another worker
reports it). Meant for workers that can tell nothing themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from scaler_plugin.core.model import Backlog, ClearmlWorker, QueueName, ServerTask, TaskStatus, WorkerId


def may_hold_a_task(
    own: Collection[WorkerId],
    tasks: Sequence[ServerTask],
    backlogs: Mapping[QueueName, Backlog],
    workers: Sequence[ClearmlWorker],
) -> str | None:
    """What speaks for a task in the hands of one of these workers, as part of a sentence.

    Args:
        own: the workers in question.
        tasks: the open tasks of all queues they serve, read first.
        backlogs: these queues.
        workers: what the server lists.
    """
    waiting = {task_id for backlog in backlogs.values() for task_id in backlog.task_ids}
    elsewhere = {worker.task_id for worker in workers if worker.worker_id not in own}
    for worker in workers:
        if worker.worker_id in own and worker.task_id is not None:
            return f"the server says that {worker.worker_id} runs task {worker.task_id}"
    for task in tasks:
        if task.status is TaskStatus.QUEUED and task.task_id not in waiting:
            return f"task {task.task_id} was taken from its queue and not started"
        if task.status is TaskStatus.IN_PROGRESS and task.task_id not in elsewhere:
            return f"task {task.task_id} is in progress, and no other worker reports it"
    return None
