"""Tells an agent that has been asking for a task for remarkably long: it may hold one that nobody else knows of yet.

Tells a stranger at the gate as well: a process that is not the slot's agent and holds its lock, a daemon that a task left behind,
say. That is no pull, and puts no task in doubt.

A pull holds the slot's gate shared. Who holds it is read from the kernel's own list (``/proc/locks``), which takes no lock:
trying the gate exclusively would tell as well, but could meet the agent's own try and cost it a poll.

What it does not tell: a pull from a lock that something in the agent's own process took (a task runs as the agent's user and may
debug it); nor whether the server has already handed a task out. Several short pulls in a row, each seen by chance, would look
like one long one; agents sleep for seconds between rounds, so a sidecar that looks every second sees the gate free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scaler_plugin.agent.processes import ProcessKey, lives

#: A pull is one HTTP call of milliseconds. Beyond this something is wrong with the server, the network or the agent's process;
#: it is well below the 60 s for which a task must have been in limbo before a rescue looks at it.
LONG_PULL_S = 20.0

_LOCKS = Path("/proc/locks")


class PullWatch:
    """One slot's pulls as seen from outside, look by look."""

    def __init__(self) -> None:
        self._first_seen: tuple[float, float] | None = None  # monotonic, wall

    def look(self, under_way: bool, monotonic: float, now: float) -> float | None:
        """Since when (wall clock) the pull has been under way, if it has been so at every look for :data:`LONG_PULL_S`."""
        if not under_way:
            self._first_seen = None
            return None
        if self._first_seen is None:
            self._first_seen = monotonic, now
        began_monotonic, began = self._first_seen
        return began if monotonic - began_monotonic > LONG_PULL_S else None


class HeldLocks:
    """The ``flock`` locks of this machine at one moment, by ``proc_locks(5)``; none where the list can't be read."""

    def __init__(self) -> None:
        try:
            lines = _LOCKS.read_bytes().split(b"\n")
        except OSError:
            lines = []
        self._held = tuple(_locks(lines))

    def asks(self, agent: ProcessKey | None, directory: Path) -> bool:
        """Whether this agent is in a pull: it holds a file of the slot's directory shared.

        By the file's path and not by its device and inode: a task may have deleted or replaced the gate that the agent
        holds, and on stacked file systems (overlayfs, btrfs) the list names another device than ``stat``.
        """
        if agent is None or not any(lock.shared and lock.pid == agent.pid for lock in self._held):
            return False
        return _holds_shared_in(agent.pid, directory) and lives(agent)

    def stranger_on(self, path: Path, agent: ProcessKey | None) -> int | None:
        """The id of a process that holds the file although it is neither this agent nor this process itself.

        The id is of the process that took the lock: a child may have inherited it and live on without it. On stacked file systems
        nobody is found.
        """
        try:
            status = os.lstat(path)
        except OSError:
            return None
        where = os.major(status.st_dev), os.minor(status.st_dev), status.st_ino
        known = {os.getpid()} | ({agent.pid} if agent is not None and lives(agent) else set())
        return min((lock.pid for lock in self._held if lock.where == where and lock.pid not in known), default=None)


def _holds_shared_in(pid: int, directory: Path) -> bool:
    """Whether the process has a file of the directory open with a shared lock on it; true as well where this user may not look."""
    process = Path("/proc", str(pid))
    try:
        for descriptor in os.listdir(process / "fd"):
            try:
                if not os.readlink(process / "fd" / descriptor).startswith(f"{directory}/"):
                    continue
                told = (process / "fdinfo" / descriptor).read_bytes()
            except FileNotFoundError:  # closed meanwhile
                continue
            # ``lock: 1: FLOCK  ADVISORY  READ 6727 fe:00:2148201 0 EOF``
            if any(lock.shared for lock in _locks(line.removeprefix(b"lock:") for line in told.split(b"\n"))):
                return True
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@dataclass(frozen=True)
class _Lock:
    pid: int
    shared: bool
    where: tuple[int, int, int]  # the file's device (major, minor) and inode


def _locks(lines: Iterable[bytes]) -> Iterable[_Lock]:
    """``10: FLOCK  ADVISORY  READ 6727 fe:00:2148201 0 EOF``."""
    for line in lines:
        fields = line.split()
        if len(fields) < 6 or fields[1] != b"FLOCK":
            continue
        major, minor, inode = fields[5].split(b":")
        yield _Lock(int(fields[4]), fields[3] == b"READ", (int(major, 16), int(minor, 16), int(inode)))
