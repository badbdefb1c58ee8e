"""The demo's tasks: created through the ClearML SDK as anybody would, then followed with bounded calls that survive an outage."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scaler_plugin.clearml_server.credentials import Credentials
from scaler_plugin.core.housekeeping import instance_of
from scaler_plugin.core.model import WorkerId
from scaler_plugin.errors import TaskServerError
from scaler_plugin.localcloud.demo.scene import TaskSeen

PROJECT = "scaler-sidecar demo"
TIMEOUT_S = 5.0

SCRIPT = """\
import time

for second in range(1, {seconds} + 1):
    time.sleep(1)
    print(f"second {{second}} of {seconds}", flush=True)
"""

_FIELDS = ["id", "status", "status_changed", "started", "completed", "last_worker", "execution.queue"]


@dataclass(frozen=True)
class EnqueuedTask:
    """``enqueued_at`` by the server's clock, like all its times (seconds since the epoch)."""

    id: str
    name: str
    queue: str
    enqueued_at: float


class DemoTasks:
    """``environment`` is where ClearML is and the keys for it. The SDK reads its settings from the process's own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        # The SDK prints some of its warnings; with --json a program reads stdout.
        with contextlib.redirect_stdout(sys.stderr):
            # The whole package first: where its session was loaded alone before, the client's own import would go in a circle.
            import clearml  # noqa: F401, PLC0415
            from clearml.backend_api.session.client import APIClient  # noqa: PLC0415

            from scaler_plugin.clearml_server.session import DaemonSession  # noqa: PLC0415

            self._client: Any = APIClient()
            self._session = DaemonSession(
                Credentials(
                    environment["CLEARML_API_HOST"],
                    environment.get("CLEARML_API_ACCESS_KEY"),
                    environment.get("CLEARML_API_SECRET_KEY"),
                    "the environment",
                ),
                TIMEOUT_S,
            )
        self._tasks: list[EnqueuedTask] = []

    def enqueue(self, number: int, queues: Sequence[str], seconds: int) -> None:
        """Create ``number`` tasks of ``seconds`` each and put them into the queues in turn."""
        for index in range(number):
            name, queue = f"sleep {seconds} s, {index + 1} of {number}", queues[index % len(queues)]
            script = {
                "binary": "python3",
                "repository": "",
                "entry_point": "sleep.py",
                "working_dir": ".",
                "diff": SCRIPT.format(seconds=seconds),
            }
            with contextlib.redirect_stdout(sys.stderr):
                task = self._client.tasks.create(name=name, type="training", script=script, tags=[PROJECT])
                self._client.tasks.enqueue(task=task.id, queue_name=queue)
            self._tasks.append(EnqueuedTask(task.id, name, queue, self._changed_at(task.id)))

    def look(self) -> tuple[TaskSeen, ...]:
        """The tasks as ClearML has them now. Raises ``TaskServerError``."""
        answer = self._session.call("tasks.get_all", {"id": [t.id for t in self._tasks], "only_fields": _FIELDS})
        states = {task["id"]: task for task in answer["tasks"]}
        waiting = self._waiting() if any(state["status"] == "queued" for state in states.values()) else frozenset()
        return tuple(_seen(task, states.get(task.id, {}), task.id in waiting) for task in self._tasks)

    def delete_queues(self, queues: Sequence[str]) -> None:
        """Take the queues out of a server that goes on without us. Never raises: the demo is over."""
        with contextlib.suppress(TaskServerError):
            found = self._session.call("queues.get_all", {"only_fields": ["id", "name"]})["queues"]
            for queue in found:
                if queue["name"] in queues:
                    self._session.call("queues.delete", {"queue": queue["id"], "force": True})

    def close(self) -> None:
        self._session.close()

    def _waiting(self) -> frozenset[str]:
        names = {task.queue for task in self._tasks}
        queues = self._session.call("queues.get_all", {"only_fields": ["name", "entries"]})["queues"]
        return frozenset(e["task"] for q in queues if q["name"] in names for e in q.get("entries") or ())

    def _changed_at(self, task_id: str) -> float:
        answer = self._session.call("tasks.get_all", {"id": [task_id], "only_fields": ["status_changed"]})
        return _seconds(answer["tasks"][0]["status_changed"])


def _seen(task: EnqueuedTask, state: Mapping[str, Any], in_queue: bool) -> TaskSeen:
    started, completed = state.get("started"), state.get("completed")
    status = state.get("status", "deleted")
    begun = started is not None and status not in ("queued", "created")
    ended = begun and completed is not None and status != "in_progress"
    return TaskSeen(
        id=task.id,
        name=task.name,
        queue=task.queue,
        status=status,
        in_queue=in_queue,
        wait_s=round(max(0.0, _seconds(started) - task.enqueued_at), 2) if begun else None,
        run_s=round(max(0.0, _seconds(completed) - _seconds(started)), 2) if ended else None,
        node=(instance_of(WorkerId(state.get("last_worker") or "")) or None) if begun else None,
    )


def _seconds(timestamp: Any) -> float:
    return datetime.fromisoformat(str(timestamp).replace("Z", "+00:00")).timestamp()
