"""All processes of a machine, also those that cut their ties: orphans, new sessions, daemons. Linux only.

A supervisor that is a subreaper is the ancestor of every process it ever caused, because the kernel gives orphans to the nearest
subreaper instead of to init. If the supervisor itself was killed, the marker in the processes' environment still finds them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections import defaultdict
from contextlib import suppress

#: In the environment of everything on a machine; its value is the machine's folder.
MACHINE_MARKER = "SCALER_LOCAL_MACHINE"

_PR_SET_CHILD_SUBREAPER = 36
#: A SIGKILL takes effect within milliseconds, except in uninterruptible sleep.
_KILL_PATIENCE_S = 10.0


def become_subreaper() -> None:
    """Adopt orphaned descendants from now on. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def descendants(pid: int) -> set[int]:
    """Every living process below ``pid``; zombies are none."""
    children: dict[int, list[int]] = defaultdict(list)
    dead = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _state_and_parent(name)) is not None:
            children[stat[1]].append(int(name))
            if stat[0] in "ZX":
                dead.add(int(name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children[waiting.pop()]:
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found - dead


def kill_descendants(pid: int) -> None:
    """SIGKILL everything below ``pid`` until nothing is left: a process may fork while the list is read."""
    deadline = time.monotonic() + _KILL_PATIENCE_S
    while (living := descendants(pid)) and time.monotonic() < deadline:
        _kill(living)
        time.sleep(0.01)


def kill_marked(marker: str) -> None:
    """SIGKILL every process whose environment has ``SCALER_LOCAL_MACHINE=<marker>``, until there is none."""
    deadline = time.monotonic() + _KILL_PATIENCE_S
    while (living := marked(marker)) and time.monotonic() < deadline:
        _kill(living)
        time.sleep(0.01)


def marked(marker: str) -> set[int]:
    """Every living process that carries this marker, without the calling one."""
    wanted = f"{MACHINE_MARKER}={marker}".encode()
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                found.add(int(name))
    return found


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _state_and_parent(name: str) -> tuple[str, int] | None:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    # The second field is the command in brackets and may itself hold brackets and blanks.
    fields = line[line.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[1])
