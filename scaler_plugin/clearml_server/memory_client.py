"""The in-memory ClearML server as one client reaches it: each machine of the simulated world has its own faults."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from scaler_plugin.clearml_server.memory_steps import MemorySteps
from scaler_plugin.clearml_server.memory_task import MemoryTask
from scaler_plugin.clearml_server.putting_back import give_up, put_back
from scaler_plugin.core.model import (
    Backlog,
    ClearmlWorker,
    QueueName,
    ServerTask,
    TaskId,
    TaskInHand,
    TaskPage,
    TaskStatus,
    WorkerId,
)
from scaler_plugin.errors import TaskServerRefused, TaskServerUnavailable

if TYPE_CHECKING:
    from scaler_plugin.clearml_server.memory import MemoryTaskServer

T = TypeVar("T")

#: A call that takes longer ends with no answer although it has its effect, as with the real adapter.
CALL_TIMEOUT_S = 10.0


class Fault(Enum):
    NONE = "none"
    UNAVAILABLE_BEFORE = "the call does not reach the server"
    UNAVAILABLE_AFTER = "the call has its effect and the answer is lost"
    BAD_CREDENTIALS = "the server does not know the keys"


class MemoryTaskClient:
    """A :class:`~scaler_plugin.core.ports.TaskServer` and an agent's connection, under one name.

    ``fault`` holds until it is changed; ``next_faults`` are used up first, one per call. ``delay_s`` is how long each call takes;
    whoever keeps time for this client passes it through ``wait``.
    """

    def __init__(self, server: MemoryTaskServer, name: str) -> None:
        self.name = name
        self.fault = Fault.NONE
        self.next_faults: deque[Fault] = deque()
        self.delay_s = 0.0
        self.wait: Callable[[float], None] | None = None
        self.calls = 0
        self._server = server

    def backlogs(self, queues: Sequence[QueueName]) -> Mapping[QueueName, Backlog]:
        return self._call(lambda: self._server.backlogs(queues))

    def create_queue(self, queue: QueueName) -> None:
        self._call(lambda: self._server.create_queue(queue))

    def open_tasks(self, queues: Sequence[QueueName]) -> tuple[ServerTask, ...]:
        return self._call(lambda: self._server.open_tasks(queues))

    def open_tasks_page(self, queues: Sequence[QueueName], statuses: Sequence[TaskStatus], page: int) -> TaskPage:
        return self._call(lambda: self._server.open_tasks_page(queues, statuses, page))

    def still_open(self, queues: Sequence[QueueName], task_ids: Sequence[TaskId]) -> tuple[ServerTask, ...]:
        return self._call(lambda: self._server.still_open(queues, task_ids))

    def requeue(self, task: ServerTask, queue: QueueName, reason: str) -> bool:
        """Several calls, as with the real adapter: a fault or a pause may fall between any two of them."""
        return put_back(self._steps(), task, queue, reason, self._server.clock.monotonic)

    def fail_task(self, task: ServerTask, reason: str) -> bool:
        return give_up(self._steps(), task, reason)

    def find_task(self, task_id: TaskId) -> TaskInHand | None:
        return self._call(lambda: self._server.find_task(task_id))

    def ask_to_stop(self, task_id: TaskId, reason: str) -> None:
        self._call(lambda: self._server.ask_to_stop(task_id, reason, by=self.name))

    def workers(self) -> tuple[ClearmlWorker, ...]:
        return self._call(self._server.workers)

    def unregister_worker(self, worker_id: WorkerId) -> None:
        self._call(lambda: self._server.unregister_worker(worker_id))

    def create_task(self, name: str = "task") -> TaskId:
        return self._call(lambda: self._server.create_task(name, by=self.name))

    def enqueue(self, task_id: TaskId, queue: QueueName, *, force: bool = False) -> None:
        self._call(lambda: self._server.enqueue(task_id, queue, force=force, by=self.name))

    def dequeue(self, task_id: TaskId) -> None:
        self._call(lambda: self._server.dequeue(task_id, by=self.name))

    def stop(self, task_id: TaskId) -> None:
        self._call(lambda: self._server.stop(task_id, by=self.name))

    def reset(self, task_id: TaskId) -> None:
        self._call(lambda: self._server.reset(task_id, by=self.name))

    def task(self, task_id: TaskId) -> MemoryTask:
        return self._call(lambda: self._server.task(task_id))

    def get_next_task(self, queue: QueueName) -> TaskId | None:
        return self._call(lambda: self._server.get_next_task(queue, by=self.name))

    def started(self, task_id: TaskId, *, force: bool = False, reason: str = "") -> None:
        self._call(lambda: self._server.started(task_id, force=force, reason=reason, by=self.name))

    def completed(self, task_id: TaskId, *, force: bool = False, reason: str = "") -> None:
        self._call(lambda: self._server.completed(task_id, force=force, reason=reason, by=self.name))

    def failed(self, task_id: TaskId, *, force: bool = False, reason: str = "") -> None:
        self._call(lambda: self._server.failed(task_id, force=force, reason=reason, by=self.name))

    def stopped(self, task_id: TaskId, *, force: bool = False, reason: str = "") -> None:
        self._call(lambda: self._server.stopped(task_id, force=force, reason=reason, by=self.name))

    def ping(self, task_id: TaskId) -> None:
        self._call(lambda: self._server.ping(task_id))

    def register_worker(self, worker_id: WorkerId, queues: Sequence[QueueName] = (), timeout_s: float = 600.0) -> None:
        self._call(lambda: self._server.register_worker(worker_id, queues, timeout_s))

    def status_report(self, worker_id: WorkerId, task_id: TaskId | None = None) -> None:
        self._call(lambda: self._server.status_report(worker_id, task_id))

    def _steps(self) -> MemorySteps:
        return MemorySteps(self._server, self.name, self._call)

    def _call(self, act: Callable[[], T]) -> T:
        self.calls += 1
        fault = self.next_faults.popleft() if self.next_faults else self.fault
        if self.delay_s and self.wait is not None:
            self.wait(min(self.delay_s, CALL_TIMEOUT_S))
        if fault is Fault.UNAVAILABLE_BEFORE:
            raise TaskServerUnavailable(
                f"The ClearML server in memory refused the connection of {self.name}. The next pass tries again."
            )
        if fault is Fault.BAD_CREDENTIALS:
            raise TaskServerRefused(
                f"The ClearML server in memory does not accept the credentials of {self.name} (401/22: Unauthorized). Create "
                "new ones.",
                22,
            )
        result = act()
        if fault is Fault.UNAVAILABLE_AFTER or self.delay_s >= CALL_TIMEOUT_S:
            raise TaskServerUnavailable(
                f"The ClearML server in memory did not answer {self.name} in time. The next pass tries again."
            )
        return result
