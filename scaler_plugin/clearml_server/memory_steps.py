"""The steps of a rescue on the in-memory server, each a call of its own as on the real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scaler_plugin.clearml_server.putting_back import STATUS_REASON, Seen
from scaler_plugin.core.model import QueueName, TaskId
from scaler_plugin.errors import TaskServerRefused

if TYPE_CHECKING:
    from scaler_plugin.clearml_server.memory import MemoryTaskServer


def _at_once(act: Callable[[], Any]) -> Any:
    return act()


class MemorySteps:
    """:class:`~scaler_plugin.clearml_server.putting_back.TaskSteps`; ``call`` is how a client reaches the server."""

    def __init__(self, server: MemoryTaskServer, by: str, call: Callable[[Callable[[], Any]], Any] = _at_once) -> None:
        self._server = server
        self._by = by
        self._call = call

    def look(self, task_id: TaskId) -> Seen | None:
        try:
            return Seen(self._call(lambda: self._server.task(task_id)).shown())
        except TaskServerRefused as error:
            if error.subcode == 101:  # no such task
                return None
            raise

    def waits_in(self, queue: QueueName, task_id: TaskId) -> bool:
        return bool(self._call(lambda: self._server.waits_in(queue, task_id)))

    def set_requeues(self, seen: Seen, count: int) -> None:
        self._call(lambda: self._server.set_requeues(seen.task.task_id, count))

    def leave_queue(self, queue: QueueName, task_id: TaskId) -> None:
        self._call(lambda: self._server.remove_from_queue(task_id, queue))

    def enqueue_with(self, task_id: TaskId, queue: QueueName, message: str, *, force: bool) -> None:
        self._call(
            lambda: self._server.enqueue(
                task_id, queue, force=force, reason=STATUS_REASON, message=message, by=self._by
            )
        )

    def move_to_front(self, queue: QueueName, task_id: TaskId) -> None:
        self._call(lambda: self._server.move_to_front(task_id, queue))

    def fail_with(self, task_id: TaskId, message: str) -> None:
        self._call(lambda: self._server.failed(task_id, force=True, reason=STATUS_REASON, message=message, by=self._by))
