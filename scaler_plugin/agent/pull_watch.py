"""Tells an agent that has been asking for a task for remarkably long: it may hold one that nobody else knows of yet.

A pull holds the slot's gate shared. Who holds it is read from the kernel's own list (``/proc/locks``), which takes no lock:
trying the gate exclusively would tell as well, but could meet the agent's own try and cost it a poll.

What it does not tell: whether the server has already handed a task out. Several short pulls in a row, each seen by chance,
would look like one long one; agents sleep for seconds between rounds, so a sidecar that looks every second sees the gate free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

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


class SharedLocks:
    """The shared ``flock`` locks of this machine at one moment, by ``proc_locks(5)``; none where the list can't be read."""

    def __init__(self) -> None:
        try:
            lines = _LOCKS.read_bytes().split(b"\n")
        except OSError:
            lines = []
        self._held = frozenset(_shared(lines))

    def on(self, path: Path, agent_pid: int | None) -> bool:
        """Whether somebody holds the file shared.

        On stacked file systems (overlayfs, btrfs) the list names another device than ``stat`` does; there the agent's process
        id with the inode's number is as certain.
        """
        try:
            status = os.stat(path)
        except OSError:
            return False
        device = (os.major(status.st_dev), os.minor(status.st_dev))
        return any(inode == status.st_ino and (where == device or pid == agent_pid) for pid, where, inode in self._held)


def _shared(lines: Iterable[bytes]) -> Iterable[tuple[int, tuple[int, int], int]]:
    """``10: FLOCK  ADVISORY  READ 6727 fe:00:2148201 0 EOF`` → process, device, inode."""
    for line in lines:
        fields = line.split()
        if len(fields) < 6 or fields[1] != b"FLOCK" or fields[3] != b"READ":
            continue
        major, minor, inode = fields[5].split(b":")
        yield int(fields[4]), (int(major, 16), int(minor, 16)), int(inode)
