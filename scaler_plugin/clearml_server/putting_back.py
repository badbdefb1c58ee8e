"""How a task is put back into its queue, and how it is given up: the same steps on the real server and in memory.

Guarantees: a task that is not as given is left alone. The count of requeues is raised before the task moves, so one that
keeps stranding comes to its limit even if every leader dies in the middle; a move that fails takes the raise back, so that a task
is never given up for having been put back when it was not. The move itself is one call, from whatever status, and
whatever is left undone looks stranded to the next sweep:

- before the move, the task is as it was, but for its count;
- inside the move the server sets the status first and adds the queue's entry afterwards: in between, the task is in limbo;
- after it, the task waits, though perhaps not at the head of its queue.

Not guaranteed: that nothing happens to the task between the last look and the move. The server has no conditional calls but one:
without force, a task that somebody has started meanwhile is not enqueued.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from scaler_plugin.core.model import QueueName, ServerTask, TaskId, TaskStatus
from scaler_plugin.errors import TaskServerError, TaskServerRefused

#: The ``status_reason`` of what we do to a task; the sentence is in its ``status_message``.
STATUS_REASON = "scaler-sidecar rescue"

#: A look older than this is taken again before the task is moved: a process may have been paused in between.
LOOK_HOLDS_S = 1.0


@dataclass(frozen=True)
class Seen:
    """A task as it is now. ``system_tags`` are the server's, where the count is kept."""

    task: ServerTask
    system_tags: tuple[str, ...] = ()


class TaskSteps(Protocol):
    """Single calls to the server."""

    def look(self, task_id: TaskId) -> Seen | None:
        """The task, or ``None`` when there is none of this id."""

    def waits_in(self, queue: QueueName, task_id: TaskId) -> bool: ...

    def set_requeues(self, seen: Seen, count: int) -> None: ...

    def leave_queue(self, queue: QueueName, task_id: TaskId) -> None:
        """Take the entry out; the task's status stays."""

    def enqueue_with(self, task_id: TaskId, queue: QueueName, message: str, *, force: bool) -> None: ...

    def move_to_front(self, queue: QueueName, task_id: TaskId) -> None: ...

    def fail_with(self, task_id: TaskId, message: str) -> None:
        """Mark the task as failed, whatever its status."""


def put_back(steps: TaskSteps, task: ServerTask, queue: QueueName, reason: str, monotonic: Callable[[], float]) -> bool:
    """See :meth:`~scaler_plugin.core.ports.TaskServer.requeue`."""
    # The queue before the task: whoever enqueues the task in between has changed it when we look.
    waits = steps.waits_in(queue, task.task_id)
    looked_at = monotonic()
    seen = _as_given(steps, task)
    if seen is None:
        return False
    if waits and task.status is TaskStatus.QUEUED:
        steps.move_to_front(queue, task.task_id)
        return True
    try:
        steps.set_requeues(seen, seen.task.requeues + 1)
        if waits:
            # Enqueueing a task that has an entry fails after it has spoiled the task's status (706).
            steps.leave_queue(queue, task.task_id)
        if monotonic() - looked_at > LOOK_HOLDS_S and _as_given(steps, task) is None:
            return False
        steps.enqueue_with(task.task_id, queue, reason, force=task.status is TaskStatus.IN_PROGRESS)
    except TaskServerError as error:
        now = _as_given(steps, task)
        if now is None and isinstance(error, TaskServerRefused):
            return False
        if now is not None:
            with contextlib.suppress(TaskServerError):
                steps.set_requeues(now, seen.task.requeues)
        raise
    # The task is safe: that it is so must be known even if its place can't be bettered, or an agent has it already.
    with contextlib.suppress(TaskServerError):
        steps.move_to_front(queue, task.task_id)
    return True


def give_up(steps: TaskSteps, task: ServerTask, reason: str) -> bool:
    """See :meth:`~scaler_plugin.core.ports.TaskServer.fail_task`. The count starts afresh for whoever enqueues it again."""
    seen = _as_given(steps, task)
    if seen is None:
        return False
    try:
        steps.fail_with(task.task_id, reason)
    except TaskServerRefused:
        if _as_given(steps, task) is None:
            return False
        raise
    if seen.task.requeues:
        with contextlib.suppress(TaskServerError):
            steps.set_requeues(seen, 0)
    return True


def _as_given(steps: TaskSteps, task: ServerTask) -> Seen | None:
    seen = steps.look(task.task_id)
    if seen is None:
        return None
    now = seen.task
    same = (now.status, now.status_changed_at, now.worker_id) == (task.status, task.status_changed_at, task.worker_id)
    return seen if same else None
