"""What the server's answers mean in our words: queues, workers and tasks from their JSON.

A field that can't be read is a doubt, and a doubt keeps a task alive: a time is taken for just now, a worker's task for one that
runs. What can't be told without a field raises (:mod:`scaler_plugin.clearml_server.odd_answers` catches it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from time import time
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


#: In the place of a task that a worker says to run, in words that are not understood.
UNREADABLE = "that can't be read"


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
        oldest_since=min((at for entry in entries if (at := _seconds(entry.get("added"))) is not None), default=None),
        tags=tuple(queue.get("tags") or ()),
        last_added_at=_seconds(queue.get("last_update")),
    )


def worker_of(worker: Mapping[str, Any]) -> ClearmlWorker:
    task = worker.get("task")
    task_id = task.get("id") if isinstance(task, Mapping) else task and UNREADABLE
    return ClearmlWorker(
        worker_id=WorkerId(_text(worker["id"])),
        task_id=TaskId(str(task_id)) if task_id else None,
        last_report_at=_seconds(worker.get("last_report_time")),
    )


def task_of(task: Mapping[str, Any], queues: Mapping[str, QueueName]) -> Seen | None:
    """The task; ``None`` for a status that no agent, person or rescue brings a task into. ``queues`` are names by id."""
    try:
        status = TaskStatus(task["status"])
    except ValueError:
        return None
    task_id = TaskId(_text(task["id"]))
    system_tags = tuple(task.get("system_tags") or ())
    worker = task.get("last_worker")
    last_update_at = _seconds(task.get("last_update"))
    if last_update_at is None:
        last_update_at = time()
    changed = task.get("status_changed")
    changed_at = _seconds(changed) if changed else last_update_at
    seen = ServerTask(
        task_id=task_id,
        status=status,
        queue=queues.get((task.get("execution") or {}).get("queue", "")),
        status_changed_at=time() if changed_at is None else changed_at,
        last_update_at=last_update_at,
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


def _seconds(timestamp: Any) -> float | None:
    """Seconds since the epoch of the server's ISO timestamps, ``None`` for anything else."""
    # Python 3.10 does not read a trailing "Z".
    try:
        return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
