"""What a slot does, as its agent last wrote it: ``state.json`` in the slot's directory.

Only the slot's agent writes it, by an atomic rename, so a reader sees the old record or the new one, never a half. It is not
synced to disk: it lies on a tmpfs, must outlive processes, and must *not* outlive a boot. A record of an earlier boot counts
as none.

The directory is the agents' user's to write, so a task in virtual-environment mode can put there what it likes: a link, a pipe, a
directory, numbers that are none. A look (:func:`look_at_record`) never waits, never follows, reads a bounded part and never
raises; what is no record is told as a sentence, for "no record" and "a record that somebody broke" are not the same.

A task can also move root's own gate into the record's place, with a record in it: only a file with a record's own mode is one, and
of a file of root's on a slot that is shared with other users nobody knows who put it there.

A full disk must not keep a slot busy for ever, and its node with it: beside the record lies a spare file of the same size, which is
written over and takes the record's place when there is no room for a new one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import time
import unicodedata
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
#: More than this of a file is never read: a record is far below it.
_READ_AT_MOST = 65_536
#: Longer than any id or name of ClearML's. They are shown to people and stored in etcd.
_LONGEST_TEXT = 1024
#: A record is of the past; the slack is for its numbers' rounding.
_FUTURE_SLACK_S = 5.0
#: Neither the kernel's process ids (at most 2^22) nor its ticks reach this.
_LARGEST_COUNT = 2**53


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


@dataclass(frozen=True)
class RecordLook:
    """What lies in a record's place. ``trouble`` says as a sentence why it is no record, and is empty when nothing lies there.

    ``owner`` is the user id of whoever put it there, ``None`` where that is not known.
    """

    record: SlotRecord | None
    owner: int | None = None
    trouble: str = ""


def look_at_record(directory: Path) -> RecordLook:
    """The slot's record, or why there is none. Never raises, and waits for nothing, whatever lies there."""
    path = directory / _FILE
    try:
        # Without NONBLOCK a pipe would wait for its writer, and a file under a lease for whoever holds that.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return RecordLook(None)
    except OSError as error:
        return RecordLook(None, _owner_of_what_lies_at(path), _broken(path, error.strerror or str(error)))
    try:
        status = os.fstat(fd)
        owner = _owner(status, path)
        if not stat.S_ISREG(status.st_mode):
            return RecordLook(None, owner, _broken(path, "it is no file"))
        if (mode := stat.S_IMODE(status.st_mode)) != _MODE:
            return RecordLook(None, owner, _broken(path, f"its mode is {mode:04o}, a record's is {_MODE:04o}"))
        text = os.read(fd, _READ_AT_MOST)
    except OSError as error:
        return RecordLook(None, _owner_of_what_lies_at(path), _broken(path, error.strerror or str(error)))
    finally:
        os.close(fd)
    try:
        return RecordLook(_parsed(text), owner)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        return RecordLook(None, owner, _broken(path, f"it is no record: {type(error).__name__}"))


def _owner(status: os.stat_result, path: Path) -> int | None:
    """Whose file in this place is. Root's agent writes into a directory of root's group; into another's it may have been moved."""
    return status.st_uid if status.st_uid != 0 or os.stat(path.parent).st_gid == 0 else None


def _owner_of_what_lies_at(path: Path) -> int | None:
    try:
        return _owner(path.lstat(), path)
    except OSError:
        return None


def _broken(path: Path, why: str) -> str:
    return f"{path} cannot be read ({why}); only something that runs on the slot can have done that."


def _parsed(text: bytes) -> SlotRecord | None:
    raw: Any = json.loads(text)
    if raw["boot_id"] != boot_id():
        return None
    state = SlotState(raw["state"])
    if state not in (SlotState.IDLE, SlotState.BUSY):
        raise ValueError(state)
    latest = boottime() + _FUTURE_SLACK_S
    return SlotRecord(
        state=state,
        since=_seconds(raw["since"], math.inf),
        since_boottime=_seconds(raw["since_boottime"], latest),
        written_at=_seconds(raw["written_at"], latest),
        agent=ProcessKey(_count(raw["agent"]["pid"]), _count(raw["agent"]["started_ticks"])),
        worker_id=_text(raw["worker_id"]),
        docker=raw["docker"] is True,
        task_id=None if raw["task_id"] is None else TaskId(_text(raw["task_id"])),
        queue=None if raw["queue"] is None else QueueName(_shown(raw["queue"])),
    )


def _seconds(value: Any, latest: float) -> float:
    seconds = float(value)
    if not math.isfinite(seconds) or seconds > latest:
        raise ValueError(seconds)
    return seconds


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= _LARGEST_COUNT:
        raise ValueError("no count")
    return value


def _text(value: Any) -> str:
    """Printable: what is no letter could steer the terminal of whoever reads it, and half a surrogate pair can't be stored."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not value.isprintable():
        raise ValueError("no text")
    return value


def _shown(value: Any) -> str:
    """A queue's name: the server allows what is no text here, and that must not make the record of a running task unreadable."""
    if not isinstance(value, str):
        raise ValueError("no text")
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else " " for char in value[:_LONGEST_TEXT]
    )


def read_record(directory: Path) -> SlotRecord | None:
    """The slot's record; ``None`` when no agent has written one since the machine booted, or it is unreadable as one."""
    return look_at_record(directory).record


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
            os.fchmod(fd, _MODE)
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
