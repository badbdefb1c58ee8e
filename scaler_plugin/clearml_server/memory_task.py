"""A task of the in-memory ClearML server and the rules of its life, as recorded from apiserver 2.0.0. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from scaler_plugin.core.model import QueueName, ServerTask, TaskId, TaskStatus, WorkerId
from scaler_plugin.errors import TaskServerRefused

#: Where a task may go without ``force``; staying is always allowed. A failed task can't be started, only enqueued again.
ALLOWED: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.CREATED: frozenset({TaskStatus.QUEUED, TaskStatus.IN_PROGRESS}),
    TaskStatus.QUEUED: frozenset({TaskStatus.CREATED, TaskStatus.IN_PROGRESS, TaskStatus.STOPPED}),
    TaskStatus.IN_PROGRESS: frozenset(
        {TaskStatus.CREATED, TaskStatus.STOPPED, TaskStatus.COMPLETED, TaskStatus.FAILED}
    ),
    TaskStatus.STOPPED: frozenset(
        {TaskStatus.CREATED, TaskStatus.QUEUED, TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED, TaskStatus.FAILED}
    ),
    TaskStatus.COMPLETED: frozenset({TaskStatus.CREATED, TaskStatus.IN_PROGRESS}),
    TaskStatus.FAILED: frozenset({TaskStatus.CREATED, TaskStatus.QUEUED, TaskStatus.STOPPED}),
}


@dataclass(frozen=True)
class Change:
    """One change of a task's status: when, into what, by which client, and the reason the client gave."""

    at: float
    status: TaskStatus
    by: str
    reason: str = ""


@dataclass(frozen=True)
class MemoryTask:
    """A task as the server shows it.

    ``queue`` is ``execution.queue``: it stays when the task is popped or has run. ``enqueue_status`` is the status to which a
    dequeued task returns. ``started_at`` is the first start since the last reset. ``requeues`` is how often a rescue has put
    it back.
    """

    task_id: TaskId
    name: str
    created_at: float
    status: TaskStatus = TaskStatus.CREATED
    queue: QueueName | None = None
    enqueue_status: TaskStatus | None = None
    started_at: float | None = None
    completed_at: float | None = None
    last_worker: WorkerId | None = None
    last_worker_report_at: float | None = None
    last_update: float = 0.0
    status_changed: float = 0.0
    tags: tuple[str, ...] = ()
    requeues: int = 0
    status_reason: str = ""
    status_message: str = ""
    abort_callback_s: float | None = None  # that the task's own abort callback may take, if it registered one
    history: tuple[Change, ...] = ()

    def moved(
        self, status: TaskStatus, at: float, by: str, reason: str = "", message: str = "", *, force: bool = False
    ) -> MemoryTask:
        """The task after a change of status; :class:`~scaler_plugin.errors.TaskServerRefused` if it isn't allowed."""
        if not force and status is not self.status and status not in ALLOWED[self.status]:
            raise TaskServerRefused(
                "The ClearML server in memory refused the change (400/110: Invalid task status (Invalid status change): "
                f"current_status={self.status.value}, new_status={status.value}).",
                110,
            )
        return replace(
            self,
            status=status,
            last_update=at,
            status_changed=at,
            status_reason=reason,
            status_message=message,
            history=(*self.history, Change(at, status, by, reason)),
        )

    def shown(self) -> ServerTask:
        """The task as the port shows it."""
        return ServerTask(
            task_id=self.task_id,
            status=self.status,
            queue=self.queue,
            status_changed_at=self.status_changed,
            last_update_at=self.last_update,
            worker_id=self.last_worker,
            tags=self.tags,
            requeues=self.requeues,
        )
