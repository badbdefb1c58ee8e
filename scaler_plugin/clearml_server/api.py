"""The real ClearML server as a :class:`~scaler_plugin.core.ports.TaskServer`, through the SDK's session.

``clearml`` is imported with the first call, so that only a process that leads pays for it. A call never waits and tries again
on its own: the leader backs off. After any failed log-in the next call logs in anew.

The calls and fields are those of the open-source server's API 2.x; each was checked against recordings of apiserver 2.0.0.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scaler_plugin.clearml_server.answers import backlog_of, listed, worker_of
from scaler_plugin.clearml_server.credentials import Credentials
from scaler_plugin.clearml_server.odd_answers import each_understood, understood
from scaler_plugin.clearml_server.putting_back import give_up, put_back
from scaler_plugin.clearml_server.task_calls import PAGE_SIZE, TaskCalls
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
from scaler_plugin.errors import TaskServerRefused

if TYPE_CHECKING:
    from scaler_plugin.clearml_server.session import DaemonSession

#: MongoDB refuses a regular expression of more than 32,764 bytes; with room for the anchors.
PATTERN_BYTES = 32_000
#: A queue with 100,000 entries is an answer of 8 MB; a server that needs longer than this is as good as away.
TIMEOUT_S = 10.0

_NAME_EXISTS = 801
_BACKLOG_FIELDS = ("id", "name", "entries", "tags", "last_update")


class ClearmlServer:
    """The queues, workers and tasks of one ClearML server.

    Host and keys that are ``None`` come from the environment or ``clearml.conf``, as the SDK and the agent find them.
    ``credentials_source`` says in a few words where explicit keys were read; it appears in error messages.
    """

    def __init__(
        self,
        api_host: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        *,
        credentials_source: str = "the cluster's configuration",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._credentials = Credentials(api_host, access_key, secret_key, credentials_source)
        self._timeout_s = timeout_s
        self._session: DaemonSession | None = None
        #: From the last time that each queue was asked for: its id, ``None`` where there was none.
        self._queue_ids: dict[QueueName, str | None] = {}

    @understood("the queues")
    def backlogs(self, queues: Sequence[QueueName]) -> Mapping[QueueName, Backlog]:
        """One request for up to 500 queues. ``entries`` come in the queue's order, the next task to be pulled first."""
        documents = self._queues_named(queues, _BACKLOG_FIELDS)
        self._queue_ids.update((name, documents[name].get("id") if name in documents else None) for name in queues)
        backlogs = each_understood(documents.values(), "queue", backlog_of)
        return {backlog.queue: backlog for backlog in backlogs}

    @understood("a new queue")
    def create_queue(self, queue: QueueName) -> None:
        try:
            self._call("queues.create", {"name": queue})
        except TaskServerRefused as error:
            if error.subcode != _NAME_EXISTS:
                raise

    @understood("the open tasks")
    def open_tasks(self, queues: Sequence[QueueName]) -> tuple[ServerTask, ...]:
        """One request for 500 tasks; one more when there is a queue whose backlog was never read."""
        return TaskCalls(self._call, self._queues_named).open_in(self._names_by_id(queues))

    @understood("the open tasks")
    def open_tasks_page(self, queues: Sequence[QueueName], statuses: Sequence[TaskStatus], page: int) -> TaskPage:
        """As :meth:`open_tasks`, of which it is a part: one request, or two."""
        return TaskCalls(self._call, self._queues_named).page_of(self._names_by_id(queues), statuses, page)

    @understood("the open tasks")
    def still_open(self, queues: Sequence[QueueName], task_ids: Sequence[TaskId]) -> tuple[ServerTask, ...]:
        return TaskCalls(self._call, self._queues_named).among(self._names_by_id(queues), task_ids[:PAGE_SIZE])

    @understood("a task that is put back")
    def requeue(self, task: ServerTask, queue: QueueName, reason: str) -> bool:
        """Five requests: the queue, the task, the count, the move, and to the head."""
        return put_back(TaskCalls(self._call, self._queues_named), task, queue, reason, time.monotonic)

    @understood("a task that has failed")
    def fail_task(self, task: ServerTask, reason: str) -> bool:
        return give_up(TaskCalls(self._call, self._queues_named), task, reason)

    @understood("a task")
    def find_task(self, task_id: TaskId) -> TaskInHand | None:
        return TaskCalls(self._call, self._queues_named).find(task_id)

    @understood("a task that is stopped")
    def ask_to_stop(self, task_id: TaskId, reason: str) -> None:
        TaskCalls(self._call, self._queues_named).ask_to_stop(task_id, reason)

    @understood("the workers")
    def workers(self) -> tuple[ClearmlWorker, ...]:
        return tuple(each_understood(listed(self._call("workers.get_all", {}), "workers"), "worker", worker_of))

    @understood("a worker that is gone")
    def unregister_worker(self, worker_id: WorkerId) -> None:
        self._call("workers.unregister", {"worker": worker_id})

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _names_by_id(self, queues: Sequence[QueueName]) -> Mapping[str, QueueName]:
        if not self._queue_ids.keys() >= set(queues):
            documents = self._queues_named(queues, ("id", "name"))
            self._queue_ids.update((name, documents[name]["id"] if name in documents else None) for name in queues)
        # Of two names with one id (a queue was renamed since the other was asked for), the first: callers name those in use first.
        return {identifier: name for name in reversed(queues) if (identifier := self._queue_ids[name]) is not None}

    def _queues_named(self, queues: Sequence[QueueName], fields: Sequence[str]) -> dict[QueueName, Mapping[str, Any]]:
        """These fields (``name`` among them) of the queues of these names, as far as they exist."""
        found: dict[QueueName, Mapping[str, Any]] = {}
        for names in _batches(queues):
            found.update(self._batch_named(names, fields))
        return found

    def _batch_named(self, names: Sequence[QueueName], fields: Sequence[str]) -> dict[QueueName, Mapping[str, Any]]:
        wanted = frozenset(names)
        found: dict[QueueName, Mapping[str, Any]] = {}
        request = {
            "name": f"^(?:{'|'.join(re.escape(name) for name in names)})$",  # the server searches, hence the anchors
            "only_fields": list(fields),
            "search_hidden": True,  # queues of the k8s glue are hidden otherwise
            "page_size": PAGE_SIZE,
        }
        for page in range(len(names)):
            queues = listed(self._call("queues.get_all", {**request, "page": page}), "queues")
            named = each_understood(queues, "queue", lambda queue: (QueueName(queue["name"]), queue))
            found.update((name, queue) for name, queue in named if name in wanted)
            # A full page that lacks some of ours: the pattern matched more than it should have; read on.
            if len(queues) < PAGE_SIZE or len(found) == len(wanted):
                break
        return found

    def _call(self, action: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._connected().call(action, body)

    def _connected(self) -> DaemonSession:
        if self._session is None:
            # The SDK prints some of its warnings; stdout may be read by a program.
            with contextlib.redirect_stdout(sys.stderr):
                from scaler_plugin.clearml_server.session import DaemonSession  # noqa: PLC0415

                self._session = DaemonSession(self._credentials, self._timeout_s)
        return self._session


def _batches(queues: Sequence[QueueName]) -> Iterator[list[QueueName]]:
    """The names, each once, in groups that fit one page and one pattern."""
    batch: list[QueueName] = []
    size = 0
    for name in dict.fromkeys(queues):
        length = len(re.escape(name).encode()) + 1
        if batch and (len(batch) == PAGE_SIZE or size + length > PATTERN_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += length
    if batch:
        yield batch
