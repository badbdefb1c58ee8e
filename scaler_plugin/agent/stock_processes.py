"""Stock ``clearml-agent`` daemons among the machine's processes, as ``/proc`` shows them.

A daemon is known by ``CLEARML_WORKER_ID`` in its environment, which everything it starts inherits, and by the word ``daemon`` among
its arguments.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from scaler_plugin.agent.processes import ProcessKey, process_state
from scaler_plugin.core.model import TaskId, WorkerId

WORKER_VARIABLE = "CLEARML_WORKER_ID"

#: System calls by which Python sleeps: number, and whether it is a sleep only without file descriptors (first argument 0).
#: ``time.sleep`` is clock_nanosleep since Python 3.11 and select or pselect6 before. Source: the kernel's syscall tables.
_SLEEPS: dict[str, dict[int, bool]] = {
    "x86_64": {230: False, 35: False, 23: True, 270: True},  # clock_nanosleep, nanosleep, select, pselect6
    "aarch64": {115: False, 101: False, 72: True},  # clock_nanosleep, nanosleep, pselect6
}

#: A helper that the agent starts for a moment (nvidia-smi, git) is no task; a task's first process lives longer.
_HELPER_S = 2.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def find_daemon(worker_id: WorkerId) -> ProcessKey | None:
    """The daemon that runs as this worker; the youngest if a wrapper around it looks the same."""
    daemons = [key for key in _marked(worker_id) if _is_daemon(key.pid)]
    return max(daemons, key=lambda key: (key.started_ticks, key.pid), default=None)


def marked_processes(worker_id: WorkerId) -> frozenset[ProcessKey]:
    """Every live process that this worker's agent has started, itself left out; in doubt (no right to read) it is none."""
    return frozenset(key for key in _marked(worker_id) if not _is_daemon(key.pid))


def children_of(pid: int) -> frozenset[ProcessKey]:
    """The live children of a process that run a task, or that have lived too long for a helper."""
    found = set()
    earliest_helper = (_uptime() - _HELPER_S) * _TICKS_PER_SECOND
    for child in _child_pids(pid):
        state = process_state(child)
        if state is None or state[0] in "ZXx":
            continue
        if state[1].started_ticks < earliest_helper or task_in_command(child) is not None:
            found.add(state[1])
    return frozenset(found)


def task_in_command(pid: int) -> TaskId | None:
    """The task that a process carries out: ``clearml_agent execute … --id TASK``, alone or inside a ``docker run``."""
    words = b" ".join(_command(pid)).split()
    if b"execute" not in words or b"--id" not in words[:-1]:
        return None
    return TaskId(words[words.index(b"--id") + 1].decode(errors="replace").strip("\"'"))


def is_stopped(pid: int) -> bool:
    state = process_state(pid)
    return state is not None and state[0] == "T"


def main_thread_sleeps(pid: int) -> bool:
    """Whether the main thread of a *stopped* process stood in a sleep. False in doubt, and on other processors."""
    try:
        words = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:
        return False
    if len(words) < 2 or not words[0].isdigit():
        return False  # "running", or -1: outside of any system call
    only_without_files = _SLEEPS.get(platform.machine(), {}).get(int(words[0]))
    if only_without_files is None:
        return False
    return not only_without_files or int(words[1], 16) == 0


def _marked(worker_id: WorkerId) -> Iterator[ProcessKey]:
    marker = f"{WORKER_VARIABLE}={worker_id}".encode()
    own = os.getpid()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        try:
            marked = marker in Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
        except OSError:  # another user's, or it ended meanwhile
            continue
        state = process_state(int(name)) if marked else None
        if state is not None and state[0] not in "ZXx":
            yield state[1]


def _is_daemon(pid: int) -> bool:
    words = _command(pid)
    return b"daemon" in words and any(b"clearml" in word for word in words)


def _command(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _child_pids(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            yield from map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except OSError:
            continue


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])
