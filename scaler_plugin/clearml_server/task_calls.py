"""The calls to the real server that concern tasks: listing those that are open, and the steps of a rescue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scaler_plugin.clearml_server.answers import TASK_FIELDS, listed, task_in_hand, task_of
from scaler_plugin.clearml_server.odd_answers import each_understood
from scaler_plugin.clearml_server.putting_back import STATUS_REASON, Seen
from scaler_plugin.clearml_server.requeue_count import with_requeues
from scaler_plugin.core.model import QueueName, ServerTask, TaskId, TaskInHand, TaskPage, TaskStatus

#: The server's own limit (``max_page_size`` of apiserver): it never lists more in one answer.
PAGE_SIZE = 500
OPEN = (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)

Call = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
QueuesNamed = Callable[[Sequence[QueueName], Sequence[str]], Mapping[QueueName, Mapping[str, Any]]]


class TaskCalls:
    """:class:`~scaler_plugin.clearml_server.putting_back.TaskSteps` for one rescue: it remembers the id of the queue."""

    def __init__(self, call: Call, queues_named: QueuesNamed) -> None:
        self._call = call
        self._queues_named = queues_named
        self._queue_id: str | None = None

    def open_in(self, names: Mapping[str, QueueName]) -> tuple[ServerTask, ...]:
        """The tasks queued or in progress whose ``execution.queue`` is one of these ids."""
        found: dict[TaskId, ServerTask] = {}
        last, number = False, 0
        while not last:
            page = self.page_of(names, OPEN, number)
            before = len(found)
            found.update({task.task_id: task for task in page.tasks})
            last, number = page.last or len(found) == before, number + 1
        return tuple(found.values())

    def page_of(self, names: Mapping[str, QueueName], statuses: Sequence[TaskStatus], page: int) -> TaskPage:
        tasks = self._listed(names, {"status": [status.value for status in statuses], "page": page})
        return TaskPage(_understood(tasks, names), last=len(tasks) < PAGE_SIZE)

    def among(self, names: Mapping[str, QueueName], task_ids: Sequence[TaskId]) -> tuple[ServerTask, ...]:
        if not task_ids:
            return ()  # as with the queues: an empty filter is none
        request = {"id": list(task_ids), "status": [status.value for status in OPEN], "page": 0}
        return _understood(self._listed(names, request), names)

    def _listed(self, names: Mapping[str, QueueName], request: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        if not names:
            return ()  # an empty filter is none: the server would list the tasks of all queues
        always = {
            "execution.queue": list(names),
            "only_fields": list(TASK_FIELDS),
            # Pages do not depend on what happens to the tasks. The oldest, which go first, are on the last pages: their end moves
            # no task that was not read yet, and a new one only puts others onto the next page.
            "order_by": ["-created"],
            "search_hidden": True,  # pipelines and data sets are hidden otherwise
            "page_size": PAGE_SIZE,
        }
        return listed(self._call("tasks.get_all", {**always, **request}), "tasks")

    def look(self, task_id: TaskId) -> Seen | None:
        request = {"id": [task_id], "only_fields": list(TASK_FIELDS), "search_hidden": True}
        tasks = listed(self._call("tasks.get_all", request), "tasks")
        return task_of(tasks[0], {}) if tasks else None

    def find(self, task_id: TaskId) -> TaskInHand | None:
        """Two requests: the task, and the name of its queue."""
        fields = [*TASK_FIELDS, "status_message", "runtime"]
        tasks = listed(
            self._call("tasks.get_all", {"id": [task_id], "only_fields": fields, "search_hidden": True}), "tasks"
        )
        if not tasks:
            return None
        queue_id = (tasks[0].get("execution") or {}).get("queue") or ""
        names: dict[str, QueueName] = {}
        if queue_id:
            request = {"id": [queue_id], "only_fields": ["id", "name"], "search_hidden": True}
            names = {
                queue["id"]: QueueName(queue["name"])
                for queue in listed(self._call("queues.get_all", request), "queues")
            }
        return task_in_hand(tasks[0], names)

    def ask_to_stop(self, task_id: TaskId, reason: str) -> None:
        # With a worker that reported lately the server only writes the message "stopping", for which agent and SDK look.
        self._call("tasks.stop", {"task": task_id, "status_reason": reason})

    def waits_in(self, queue: QueueName, task_id: TaskId) -> bool:
        document = self._queues_named([queue], ("id", "name", "entries")).get(queue)
        self._queue_id = document["id"] if document else None
        return any(entry["task"] == task_id for entry in (document or {}).get("entries") or ())

    def set_requeues(self, seen: Seen, count: int) -> None:
        # ``tasks.update`` takes tags in every status and leaves the times that the watchdog and a person go by.
        tags = with_requeues(seen.system_tags, seen.task.task_id, count)
        self._call("tasks.update", {"task": seen.task.task_id, "system_tags": tags})

    def leave_queue(self, queue: QueueName, task_id: TaskId) -> None:
        self._call("queues.remove_task", {"queue": self._queue_id, "task": task_id})

    def enqueue_with(self, task_id: TaskId, queue: QueueName, message: str, *, force: bool) -> None:
        where = {"queue": self._queue_id} if self._queue_id else {"queue_name": queue}  # the latter creates it
        why = {"status_reason": STATUS_REASON, "status_message": message}
        fields = self._call("tasks.enqueue", {"task": task_id, **where, **why, "force": force}).get("fields") or {}
        self._queue_id = fields.get("execution.queue", self._queue_id)

    def move_to_front(self, queue: QueueName, task_id: TaskId) -> None:
        self._call("queues.move_task_to_front", {"queue": self._queue_id, "task": task_id})

    def fail_with(self, task_id: TaskId, message: str) -> None:
        why = {"status_reason": STATUS_REASON, "status_message": message}
        self._call("tasks.failed", {"task": task_id, **why, "force": True})


def _understood(tasks: Sequence[Mapping[str, Any]], names: Mapping[str, QueueName]) -> tuple[ServerTask, ...]:
    each = each_understood(tasks, "task", lambda task: task_of(task, names))
    return tuple(seen.task for seen in each if seen is not None)
