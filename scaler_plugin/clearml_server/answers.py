"""What the server's answers mean in our words: queues, workers and tasks from their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from scaler_plugin.clearml_server.putting_back import Seen
from scaler_plugin.clearml_server.requeue_count import requeues_in
from scaler_plugin.core.model import (
    Backlog,
    ClearmlWorker,
    QueueName,
    ServerTask,
    TaskId,
    TaskInHand,
    TaskStatus,
    WorkerId,
)
from scaler_plugin.errors import TaskServerRefused

#: What :func:`task_of` needs to be asked for.
TASK_FIELDS = (
    "id",
    "status",
    "status_changed",
    "last_update",
    "last_worker",
    "execution.queue",
    "tags",
    "system_tags",
)


def listed(data: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    items = data.get(key)
    if not isinstance(items, list):
        raise TaskServerRefused(f"The ClearML server's answer has no list of {key}. Is its version older than 1.0?")
    return items


def backlog_of(queue: Mapping[str, Any]) -> Backlog:
    entries = queue.get("entries") or ()
    return Backlog(
        queue=QueueName(queue["name"]),
        task_ids=tuple(TaskId(entry["task"]) for entry in entries),
        # Not the first entry's: people move tasks within a queue.
        oldest_since=min((seconds(entry["added"]) for entry in entries), default=None),
        tags=tuple(queue.get("tags") or ()),
        last_added_at=seconds(queue["last_update"]) if queue.get("last_update") else None,
    )


def worker_of(worker: Mapping[str, Any]) -> ClearmlWorker:
    task = (worker.get("task") or {}).get("id")
    reported = worker.get("last_report_time")
    return ClearmlWorker(
        worker_id=WorkerId(worker["id"]),
        task_id=TaskId(task) if task else None,
        last_report_at=seconds(reported) if reported else None,
    )


def task_of(task: Mapping[str, Any], queues: Mapping[str, QueueName]) -> Seen | None:
    """The task; ``None`` for a status that no agent, person or rescue brings a task into. ``queues`` are names by id."""
    try:
        status = TaskStatus(task["status"])
    except ValueError:
        return None
    task_id = TaskId(task["id"])
    system_tags = tuple(task.get("system_tags") or ())
    worker = task.get("last_worker")
    last_update = task["last_update"]
    seen = ServerTask(
        task_id=task_id,
        status=status,
        queue=queues.get((task.get("execution") or {}).get("queue", "")),
        status_changed_at=seconds(task.get("status_changed") or last_update),
        last_update_at=seconds(last_update),
        worker_id=WorkerId(worker) if worker else None,
        tags=tuple(task.get("tags") or ()),
        requeues=requeues_in(system_tags, task_id),
    )
    return Seen(seen, system_tags)


def task_in_hand(task: Mapping[str, Any], queues: Mapping[str, QueueName]) -> TaskInHand | None:
    """The task with what an agent looks at to stop it (``TaskStopSignal`` in ``clearml_agent.commands.worker``).

    An abort callback stands in the task's runtime properties; the agent waits for its time and for the SDK's interval of looking.
    """
    seen = task_of(task, queues)
    if seen is None:
        return None
    runtime = task.get("runtime") or {}
    try:
        callback_s = float(runtime.get("_abort_callback_timeout") or 0) + float(runtime.get("_abort_poll_freq") or 0)
    except (TypeError, ValueError):
        callback_s = 0.0
    stopping = "stopping" in (task.get("status_message") or "")
    return TaskInHand(seen.task, stopping, callback_s if callback_s > 0 else None)


def seconds(timestamp: str) -> float:
    """Seconds since the epoch of the server's ISO timestamps; Python 3.10 does not read a trailing ``Z``."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
