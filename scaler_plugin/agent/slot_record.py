"""What a slot does, as its agent last wrote it: ``state.json`` in the slot's directory.

Only the slot's agent writes it, by an atomic rename, so a reader sees the old record or the new one, never a half. It is not
synced to disk: it lies on a tmpfs, must outlive processes, and must *not* outlive a boot. A record of an earlier boot counts
as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from scaler_plugin.agent.processes import ProcessKey
from scaler_plugin.core.model import QueueName, SlotState, TaskId

_FILE = "state.json"
_MODE = 0o640


@lru_cache(maxsize=1)
def boot_id() -> str:
    """The kernel's own name for this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boottime() -> float:
    """Seconds since the machine booted, time asleep included: the clock in which the kernel counts process starts."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class SlotRecord:
    """Idle, or busy with a task, since when, and by which agent process.

    ``since`` is wall time (seconds since the epoch), when the slot came into this state. ``written_at`` is :func:`boottime`, when
    the state was last known to begin: no process of a task that started before it belongs to the present state.
    """

    state: SlotState  # IDLE or BUSY
    since: float
    since_boottime: float
    written_at: float
    agent: ProcessKey
    worker_id: str
    docker: bool = False
    task_id: TaskId | None = None
    queue: QueueName | None = None


def read_record(directory: Path) -> SlotRecord | None:
    """The slot's record; ``None`` when no agent has written one since the machine booted, or it is unreadable as one."""
    try:
        raw: Any = json.loads((directory / _FILE).read_bytes())
        if raw["boot_id"] != boot_id():
            return None
        return SlotRecord(
            state=SlotState(raw["state"]),
            since=float(raw["since"]),
            since_boottime=float(raw["since_boottime"]),
            written_at=float(raw["written_at"]),
            agent=ProcessKey(int(raw["agent"]["pid"]), int(raw["agent"]["started_ticks"])),
            worker_id=raw["worker_id"],
            docker=raw["docker"],
            task_id=raw["task_id"],
            queue=raw["queue"],
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def record_owner(directory: Path) -> int | None:
    """The user id of the agent that wrote the record, ``None`` without one."""
    try:
        return (directory / _FILE).stat().st_uid
    except FileNotFoundError:
        return None


def write_record(directory: Path, record: SlotRecord) -> None:
    """Replace the slot's record in one step. Raises ``OSError`` when the file system refuses; the old record then stands."""
    raw = {
        "state": record.state.value,
        "since": record.since,
        "since_boottime": record.since_boottime,
        "written_at": record.written_at,
        "boot_id": boot_id(),
        "agent": {"pid": record.agent.pid, "started_ticks": record.agent.started_ticks},
        "worker_id": record.worker_id,
        "docker": record.docker,
        "task_id": record.task_id,
        "queue": record.queue,
    }
    path = directory / _FILE
    scratch = directory / f"{_FILE}.{os.getpid()}"
    try:
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(raw, file)
        scratch.chmod(_MODE)
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
