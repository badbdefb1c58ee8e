"""The real ClearML server as a :class:`~scaler_plugin.core.ports.TaskServer`, through the SDK's session.

``clearml`` is imported with the first call, so that only a process that leads pays for it. A call never waits and tries again
on its own: the leader backs off. After any failed log-in the next call logs in anew.

The calls and fields are those of the open-source server's API 2.x; each was checked against recordings of apiserver 2.0.0.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from scaler_plugin.clearml_server.credentials import Credentials
from scaler_plugin.core.model import Backlog, ClearmlWorker, QueueName, TaskId, WorkerId
from scaler_plugin.errors import TaskServerRefused

if TYPE_CHECKING:
    from scaler_plugin.clearml_server.session import DaemonSession

#: The server's own limit (``max_page_size`` of apiserver): it never lists more queues in one answer.
PAGE_SIZE = 500
#: MongoDB refuses a regular expression of more than 32,764 bytes; with room for the anchors.
PATTERN_BYTES = 32_000
#: A queue with 100,000 entries is an answer of 8 MB; a server that needs longer than this is as good as away.
TIMEOUT_S = 10.0

_NAME_EXISTS = 801


class ClearmlServer:
    """The queues and workers of one ClearML server.

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

    def backlogs(self, queues: Sequence[QueueName]) -> Mapping[QueueName, Backlog]:
        """One request for up to 500 queues. ``entries`` come in the queue's order, the next task to be pulled first."""
        found: dict[QueueName, Backlog] = {}
        for names in _batches(queues):
            found.update(self._backlogs_of(names))
        return found

    def create_queue(self, queue: QueueName) -> None:
        try:
            self._call("queues.create", {"name": queue})
        except TaskServerRefused as error:
            if error.subcode != _NAME_EXISTS:
                raise

    def workers(self) -> tuple[ClearmlWorker, ...]:
        return tuple(_worker(worker) for worker in _listed(self._call("workers.get_all", {}), "workers"))

    def unregister_worker(self, worker_id: WorkerId) -> None:
        self._call("workers.unregister", {"worker": worker_id})

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _backlogs_of(self, names: Sequence[QueueName]) -> dict[QueueName, Backlog]:
        wanted = frozenset(names)
        found: dict[QueueName, Backlog] = {}
        request = {
            "name": f"^(?:{'|'.join(re.escape(name) for name in names)})$",  # the server searches, hence the anchors
            "only_fields": ["name", "entries"],
            "search_hidden": True,  # queues of the k8s glue are hidden otherwise
            "page_size": PAGE_SIZE,
        }
        for page in range(len(names)):
            queues = _listed(self._call("queues.get_all", {**request, "page": page}), "queues")
            for queue in queues:
                if queue["name"] in wanted:
                    found[queue["name"]] = _backlog(queue)
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


def _listed(data: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    items = data.get(key)
    if not isinstance(items, list):
        raise TaskServerRefused(f"The ClearML server's answer has no list of {key}. Is its version older than 1.0?")
    return items


def _backlog(queue: Mapping[str, Any]) -> Backlog:
    entries = queue.get("entries") or ()
    return Backlog(
        queue=QueueName(queue["name"]),
        task_ids=tuple(TaskId(entry["task"]) for entry in entries),
        # Not the first entry's: people move tasks within a queue.
        oldest_since=min((_seconds(entry["added"]) for entry in entries), default=None),
    )


def _worker(worker: Mapping[str, Any]) -> ClearmlWorker:
    task = (worker.get("task") or {}).get("id")
    reported = worker.get("last_report_time")
    return ClearmlWorker(
        worker_id=WorkerId(worker["id"]),
        task_id=TaskId(task) if task else None,
        last_report_at=_seconds(reported) if reported else None,
    )


def _seconds(timestamp: str) -> float:
    """Seconds since the epoch of the server's ISO timestamps; Python 3.10 does not read a trailing ``Z``."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
