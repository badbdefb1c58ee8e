"""The in-memory twin of the ClearML server for the simulated world: queues, tasks and workers with the real server's manners.

It is a :class:`~scaler_plugin.core.ports.TaskServer` and also has the sides of people (create, enqueue, dequeue, stop) and of
agents (pull, start, report, finish). Among these manners:

- a pull takes the entry out of the queue at once, and the task stays ``queued`` in no queue ("limbo") until somebody starts it;
- a worker stays listed for 600 s after its last report, with the task it reported;
- a task that runs without a sign of life is stopped by the watchdog after two hours and never enqueued again.

Deterministic and single-threaded; time comes from the clock. Changes cost O(1), reading a backlog O(its length) after a change.
Not modelled: projects, events, users, deleting, cloning, moving tasks within a queue but to its head.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from scaler_plugin.clearml_server.memory_client import MemoryTaskClient
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
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import TaskServerRefused

#: How long the server keeps a worker that reports no more, unless it registered with another time.
WORKER_TIMEOUT_S = 600.0
#: A task in progress that was not updated for this long is stopped …
SILENT_TASK_S = 7200.0
#: … at the next of the watchdog's rounds, which the real server makes this often.
WATCHDOG_ROUND_S = 900.0
MIN_QUEUE_NAME = 3
#: Most tasks of one answer.
PAGE_SIZE = 500

PEOPLE = "people"
SERVER = "__apiserver__"


@dataclass
class _Queue:
    name: QueueName
    added: OrderedDict[TaskId, float] = field(default_factory=OrderedDict)
    tags: tuple[str, ...] = ()
    last_added_at: float | None = None
    view: Backlog | None = None  # until the next change

    def put(self, task_id: TaskId, at: float) -> None:
        self.added[task_id] = at
        self.last_added_at = at
        self.view = None

    def holds(self, task_id: TaskId) -> bool:
        return task_id in self.added

    def remove(self, task_id: TaskId) -> None:
        if self.added.pop(task_id, None) is not None:
            self.view = None

    def move_to_front(self, task_id: TaskId) -> None:
        self.added.move_to_end(task_id, last=False)
        self.view = None

    def pop(self) -> TaskId | None:
        if not self.added:
            return None
        self.view = None
        return self.added.popitem(last=False)[0]

    def backlog(self) -> Backlog:
        if self.view is None:
            oldest_since = min(self.added.values(), default=None)
            self.view = Backlog(self.name, tuple(self.added), oldest_since, self.tags, self.last_added_at)
        return self.view


@dataclass
class _Worker:
    worker_id: WorkerId
    timeout_s: float
    last_activity: float
    task_id: TaskId | None = None
    last_report_at: float | None = None


class MemoryTaskServer:
    """One ClearML server in memory. ``by`` names who acts and stands in the task's history."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.page_size = PAGE_SIZE
        self._queues: dict[QueueName, _Queue] = {}
        self._tasks: dict[TaskId, MemoryTask] = {}
        self._open: dict[TaskId, None] = {}  # queued or in progress
        self._workers: dict[WorkerId, _Worker] = {}
        self._numbers = itertools.count(1)

    def client(self, name: str) -> MemoryTaskClient:
        """This server as one machine or person reaches it, with faults of its own."""
        return MemoryTaskClient(self, name)

    # The port.

    def backlogs(self, queues: Sequence[QueueName]) -> Mapping[QueueName, Backlog]:
        return {name: self._queues[name].backlog() for name in queues if name in self._queues}

    def create_queue(self, queue: QueueName) -> None:
        if len(queue) < MIN_QUEUE_NAME:
            raise _refused("queues.create", 800, "Data validation error: name=String value is too short")
        self._queues.setdefault(queue, _Queue(queue))

    def open_tasks(self, queues: Sequence[QueueName]) -> tuple[ServerTask, ...]:
        wanted = frozenset(queues)
        return tuple(self._tasks[task_id].shown() for task_id in self._open if self._tasks[task_id].queue in wanted)

    def open_tasks_page(self, queues: Sequence[QueueName], statuses: Sequence[TaskStatus], page: int) -> TaskPage:
        found = [task for task in self.open_tasks(queues) if task.status in statuses]
        found.sort(key=lambda task: (self._tasks[task.task_id].created_at, task.task_id), reverse=True)
        part = found[page * self.page_size :][: self.page_size]
        return TaskPage(tuple(part), last=len(part) < self.page_size)

    def still_open(self, queues: Sequence[QueueName], task_ids: Sequence[TaskId]) -> tuple[ServerTask, ...]:
        wanted = frozenset(queues)
        return tuple(
            self._tasks[task_id].shown()
            for task_id in dict.fromkeys(task_ids[:PAGE_SIZE])
            if task_id in self._open and self._tasks[task_id].queue in wanted
        )

    def requeue(self, task: ServerTask, queue: QueueName, reason: str, *, by: str = PEOPLE) -> bool:
        return put_back(MemorySteps(self, by), task, queue, reason, self.clock.monotonic)

    def fail_task(self, task: ServerTask, reason: str, *, by: str = PEOPLE) -> bool:
        return give_up(MemorySteps(self, by), task, reason)

    def find_task(self, task_id: TaskId) -> TaskInHand | None:
        task = self._tasks.get(task_id)
        if task is None:
            return None
        return TaskInHand(task.shown(), "stopping" in task.status_message, task.abort_callback_s)

    def ask_to_stop(self, task_id: TaskId, reason: str, *, by: str = PEOPLE) -> None:
        self.stop(task_id, reason=reason, by=by)

    def workers(self) -> tuple[ClearmlWorker, ...]:
        now = self.clock.now()
        for worker_id in [w.worker_id for w in self._workers.values() if now - w.last_activity >= w.timeout_s]:
            del self._workers[worker_id]
        return tuple(ClearmlWorker(w.worker_id, w.task_id, w.last_report_at) for w in self._workers.values())

    def unregister_worker(self, worker_id: WorkerId) -> None:
        self._workers.pop(worker_id, None)

    # People.

    def create_task(self, name: str = "task", *, by: str = PEOPLE) -> TaskId:
        task_id = TaskId(f"{next(self._numbers):032x}")
        now = self.clock.now()
        self._keep(MemoryTask(task_id, name, now, last_update=now).moved(TaskStatus.CREATED, now, by))
        return task_id

    def enqueue(
        self,
        task_id: TaskId,
        queue: QueueName,
        *,
        force: bool = False,
        reason: str = "",
        message: str = "",
        by: str = PEOPLE,
    ) -> None:
        """Put the task at the queue's end and take it out of the queue it was in; a missing queue is created."""
        task = self.task(task_id)
        now = self.clock.now()
        queued = task.moved(TaskStatus.QUEUED, now, by, reason, message, force=force)
        self.create_queue(queue)
        if self._queues[queue].holds(task_id):
            # The real server fails here after it has spoiled the task's way back.
            spoiled = replace(task, status_reason="failed enqueueing", status_message="", enqueue_status=None)
            self._keep(replace(spoiled, status_changed=now, last_update=now))
            raise _refused(
                "tasks.enqueue", 706, f"Failed adding task to queue since task is already queued: task={task_id}"
            )
        self._take_out(task)
        was_queued = task.status is TaskStatus.QUEUED and task.enqueue_status is not None
        self._keep(replace(queued, queue=queue, enqueue_status=task.enqueue_status if was_queued else task.status))
        self._queues[queue].put(task_id, now)

    def dequeue(self, task_id: TaskId, *, by: str = PEOPLE) -> None:
        """Take the task out of its queue (or out of limbo): it returns to the status it was enqueued from."""
        task = self.task(task_id)
        self._take_out(task)
        if task.status in (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS):
            back = task.enqueue_status or TaskStatus.CREATED
            self._keep(replace(task.moved(back, self.clock.now(), by, force=True), enqueue_status=None))

    def stop(self, task_id: TaskId, *, reason: str = "", by: str = PEOPLE) -> None:
        """Abort the task as the web page does: a live worker is asked to, otherwise the task is stopped here and now."""
        task = self.task(task_id)
        now = self.clock.now()
        queued = task.status is TaskStatus.QUEUED
        if task.last_worker is not None and not queued and now - task.last_update < WORKER_TIMEOUT_S:
            self._keep(task.moved(task.status, now, by, reason, "stopping"))
            return
        self._keep(task.moved(TaskStatus.STOPPED, now, by, reason, f"Stopped by {by}"))
        if queued:
            self._take_out(task)

    def reset(self, task_id: TaskId, *, by: str = PEOPLE) -> None:
        """Bring the task back to ``created``; its history stays."""
        task = self.task(task_id)
        fresh = task.moved(TaskStatus.CREATED, self.clock.now(), by, "reset", "reset")
        self._take_out(task)
        self._keep(
            replace(
                fresh,
                queue=None,
                enqueue_status=None,
                started_at=None,
                completed_at=None,
                last_worker=None,
                last_worker_report_at=None,
            )
        )

    def set_tags(self, task_id: TaskId, tags: Sequence[str]) -> None:
        self._keep(replace(self.task(task_id), tags=tuple(sorted(tags))))

    def set_queue_tags(self, queue: QueueName, tags: Sequence[str]) -> None:
        self._queues[queue].tags = tuple(tags)
        self._queues[queue].view = None

    def set_requeues(self, task_id: TaskId, count: int) -> None:
        """Write the count of requeues onto the task, where the real server has a system tag."""
        self._keep(replace(self.task(task_id), requeues=count))

    def remove_from_queue(self, task_id: TaskId, queue: QueueName) -> None:
        """Take the entry out; the task's status stays."""
        self._entry(task_id, queue, "queues.remove_task").remove(task_id)

    def move_to_front(self, task_id: TaskId, queue: QueueName) -> None:
        self._entry(task_id, queue, "queues.move_task_to_front").move_to_front(task_id)

    def task(self, task_id: TaskId) -> MemoryTask:
        try:
            return self._tasks[task_id]
        except KeyError:
            raise _refused("tasks.get_by_id", 101, f"Invalid task id: id={task_id}") from None

    def tasks(self) -> tuple[MemoryTask, ...]:
        """All tasks, in the order of their creation."""
        return tuple(self._tasks.values())

    def waits_in(self, queue: QueueName, task_id: TaskId) -> bool:
        return queue in self._queues and self._queues[queue].holds(task_id)

    def in_limbo(self, task_id: TaskId) -> bool:
        """Whether the task is ``queued`` in no queue: pulled, and not started by anybody."""
        task = self.task(task_id)
        # A queued task's entry can only be in the queue it was last put into.
        return (
            task.queue is not None and task.status is TaskStatus.QUEUED and not self._queues[task.queue].holds(task_id)
        )

    # Agents.

    def get_next_task(self, queue: QueueName, *, by: str = PEOPLE) -> TaskId | None:
        """Pull the queue's first task. Whatever its status, the entry is gone; a ``stopped`` task becomes ``queued`` again."""
        if queue not in self._queues:
            raise _refused("queues.get_next_task", 701, f"Invalid queue id: id={queue}")
        task_id = self._queues[queue].pop()
        task = None if task_id is None else self._tasks[task_id]
        if task is not None and task.status is TaskStatus.STOPPED:
            queued = task.moved(TaskStatus.QUEUED, self.clock.now(), by, task.status_reason, task.status_message)
            self._keep(replace(queued, status_changed=task.status_changed, last_update=task.last_update))
        return task_id

    def started(self, task_id: TaskId, *, force: bool = False, reason: str = "", by: str = PEOPLE) -> None:
        """Mark the task as running. An entry in a queue stays where it is."""
        now = self.clock.now()
        task = self.task(task_id).moved(TaskStatus.IN_PROGRESS, now, by, reason, force=force)
        self._keep(replace(task, started_at=now if task.started_at is None else task.started_at))

    def completed(self, task_id: TaskId, *, force: bool = False, reason: str = "", by: str = PEOPLE) -> None:
        now = self.clock.now()
        task = self.task(task_id).moved(TaskStatus.COMPLETED, now, by, reason, force=force)
        self._keep(replace(task, completed_at=now))

    def failed(
        self, task_id: TaskId, *, force: bool = False, reason: str = "", message: str = "", by: str = PEOPLE
    ) -> None:
        self._keep(self.task(task_id).moved(TaskStatus.FAILED, self.clock.now(), by, reason, message, force=force))

    def stopped(self, task_id: TaskId, *, force: bool = False, reason: str = "", by: str = PEOPLE) -> None:
        """Mark the task as stopped, as its agent does after it has killed it. An entry in a queue stays where it is."""
        now = self.clock.now()
        task = self.task(task_id).moved(TaskStatus.STOPPED, now, by, reason, force=force)
        self._keep(replace(task, completed_at=now))

    def ping(self, task_id: TaskId) -> None:
        """A running task's sign of life; an unknown task is no error."""
        if task_id in self._tasks:
            self._keep(replace(self._tasks[task_id], last_update=self.clock.now()))

    def register_worker(
        self, worker_id: WorkerId, queues: Sequence[QueueName] = (), timeout_s: float = WORKER_TIMEOUT_S
    ) -> None:
        """List the worker, without a task, in place of one of the same id."""
        for queue in queues:
            if queue not in self._queues:
                raise _refused("workers.register", 701, f"Invalid queue id: ids=({queue})")
        self._workers[worker_id] = _Worker(worker_id, timeout_s, self.clock.now())

    def status_report(self, worker_id: WorkerId, task_id: TaskId | None = None) -> None:
        """A worker's sign of life. It registers an unknown worker; without a task the worker's task is cleared."""
        now = self.clock.now()
        if task_id is not None:
            task = self.task(task_id)
            self._keep(replace(task, last_worker=worker_id, last_worker_report_at=now, last_update=now))
        worker = self._workers.get(worker_id)
        if worker is None or now - worker.last_activity >= worker.timeout_s:
            worker = self._workers[worker_id] = _Worker(worker_id, WORKER_TIMEOUT_S, now)
        worker.task_id, worker.last_activity, worker.last_report_at = task_id, now, now

    # The server itself.

    def run_watchdog(self) -> tuple[TaskId, ...]:
        """One of the watchdog's rounds; the tasks it stopped. The world calls it every ``WATCHDOG_ROUND_S``."""
        now = self.clock.now()
        silent = tuple(
            task_id
            for task_id in self._open
            if self._tasks[task_id].status is TaskStatus.IN_PROGRESS
            and now - self._tasks[task_id].last_update >= SILENT_TASK_S
        )
        for task_id in silent:
            why = "Forced stop (non-responsive)"
            self._keep(self._tasks[task_id].moved(TaskStatus.STOPPED, now, SERVER, why, why))
        return silent

    def _keep(self, task: MemoryTask) -> None:
        self._tasks[task.task_id] = task
        if task.status in (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS):
            self._open[task.task_id] = None
        else:
            self._open.pop(task.task_id, None)

    def _entry(self, task_id: TaskId, queue: QueueName, call: str) -> _Queue:
        found = self._queues.get(queue)
        if found is None or not found.holds(task_id):
            raise _refused(call, 703, f"Invalid queue id or task not in queue: task={task_id}, id={queue}")
        return found

    def _take_out(self, task: MemoryTask) -> None:
        if task.queue is not None:
            self._queues[task.queue].remove(task.task_id)


def _refused(call: str, subcode: int, message: str) -> TaskServerRefused:
    return TaskServerRefused(f"The ClearML server in memory refused {call} (400/{subcode}: {message}).", subcode)
