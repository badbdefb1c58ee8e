"""What a slot does, as its agent last wrote it: ``state.json`` in the slot's directory.

Only the slot's agent writes it, by an atomic rename, so a reader sees the old record or the new one, never a half. It is not
synced to disk: it lies on a tmpfs, must outlive processes, and must *not* outlive a boot. A record of an earlier boot counts
as none.

A full disk must not keep a slot busy for ever, and its node with it: beside the record lies a spare file of the same size, which is
written over and takes the record's place when there is no room for a new one.
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
_SPARE = "state.spare"
_MODE = 0o640
#: Bytes of a record with the blanks that fill it up, so that any record fits into the spare file: ids and names are shorter.
_SIZE = 2048


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
    text = json.dumps(raw).ljust(_SIZE).encode()
    try:
        _write_new(directory / _FILE, text)
    except OSError:
        if not _write_over_spare(directory, text):
            raise
    if not (directory / _SPARE).exists():
        with contextlib.suppress(OSError):
            _write_new(directory / _SPARE, text)


def _write_new(path: Path, text: bytes) -> None:
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
        with open(fd, "wb") as file:
            file.write(text)
        scratch.chmod(_MODE)
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise


def _write_over_spare(directory: Path, text: bytes) -> bool:
    """Let the spare file become the record and the record the spare file: needs no room on the disk. False when it can't be."""
    path, spare, former = directory / _FILE, directory / _SPARE, directory / f"{_SPARE}.former"
    try:
        fd = os.open(spare, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(fd, "wb", buffering=0) as file:
            if os.fstat(fd).st_size < len(text) or file.write(text) != len(text):
                return False
        with contextlib.suppress(OSError):
            former.unlink(missing_ok=True)
            os.link(path, former)
        spare.replace(path)
        with contextlib.suppress(OSError):
            former.replace(spare)
    except OSError:
        return False
    return True
