"""What of a task still lives on a slot: processes and containers.

Every process that an agent starts carries ``SCALER_SLOT_DIR=<slot directory>`` in its environment, and so do all its descendants,
also when their parents are gone and init has adopted them. A full look over ``/proc`` finds them; it costs some ten
microseconds a process, so callers do it only where it matters. In docker mode a task's processes are children of the docker
daemon, without our marker: there ``docker ps`` is asked for the label that the agent gives its containers.

What counts: each live process with the marker that started since a given moment, except the agent itself. Zombies don't. The
moment is what tells a task from leftovers: tools that a task starts may daemonize and stay (``gpg-agent``, git's credential cache),
and once the agent has seen the task end, they are nobody's work and must not keep a machine for ever.

Linux only: start times are the kernel's own ticks since boot, which no step of the wall clock moves.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scaler_plugin.agent.container_groups import WORKER_LABEL, living_groups, may_be_of

#: In the environment of everything that an agent starts.
SLOT_MARKER = "SCALER_SLOT_DIR"

#: A process that started within this much before "since" counts too: starts are rounded down to a tick (10 ms).
_TICK_SLACK_S = 0.02

_DOCKER_TIMEOUT_S = 10.0
#: No environment of a process is larger when it starts (the kernel's limit is 6 MiB); later its owner can make it seem so.
_LARGEST_ENVIRONMENT = 8 * 2**20
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_DEAD = frozenset("ZXx")


@dataclass(frozen=True)
class ProcessKey:
    """A process for certain: process ids are used again, a process id and its start (ticks since boot) are not."""

    pid: int
    started_ticks: int


class ContainersUnknown(Exception):
    """The docker daemon did not say which containers run: a task may or may not be alive."""


def this_process() -> ProcessKey:
    stat = process_state(os.getpid())
    if stat is None:
        raise RuntimeError("/proc does not list this process: is it mounted?")
    return stat[1]


def lives(key: ProcessKey) -> bool:
    """Whether that very process is alive; a zombie is not."""
    stat = process_state(key.pid)
    return stat is not None and stat[0] not in _DEAD and stat[1] == key


def living_processes(slot_directory: Path, since_boottime: float, agent_uid: int | None) -> frozenset[ProcessKey]:
    """Every live process of the slot that started at ``since_boottime`` (seconds since boot) or later, without this one.

    A process whose environment this user may not read counts if it belongs to ``agent_uid``, the user the agent runs as:
    in doubt it is a task's.
    """
    marker = f"{SLOT_MARKER}={slot_directory}".encode()
    earliest = (since_boottime - _TICK_SLACK_S) * _TICKS_PER_SECOND
    return frozenset(_living(marker, earliest, agent_uid))


def _living(marker: bytes, earliest_ticks: float, agent_uid: int | None) -> Iterator[ProcessKey]:
    no_tasks = (1, os.getpid())  # the first process was started by the kernel or a container's runtime, by no agent
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in no_tasks:
            continue
        stat = process_state(int(name))
        if stat is None or stat[0] in _DEAD or stat[1].started_ticks < earliest_ticks:
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                ours = marker in file.read(_LARGEST_ENVIRONMENT).split(b"\0")
        except PermissionError:
            ours = agent_uid is not None and _uid(name) == agent_uid
        except OSError:  # it ended meanwhile
            continue
        if ours:
            yield stat[1]


def process_state(pid: int) -> tuple[str, ProcessKey] | None:
    """State letter and identity of a process, ``None`` if there is none (``proc(5)``, ``/proc/<pid>/stat``)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    # The second field is the command in brackets and may itself hold brackets and blanks.
    fields = line[line.rindex(b")") + 2 :].split()
    return fields[0].decode(), ProcessKey(pid, int(fields[19]))


def _uid(name: str) -> int | None:
    try:
        return os.stat(f"/proc/{name}").st_uid
    except OSError:
        return None


def owns(uid: int | None, key: ProcessKey) -> bool:
    """Whether the process runs as this user."""
    return uid is not None and _uid(str(key.pid)) == uid


def living_containers(worker_id: str) -> tuple[str, ...]:
    """Ids of the running containers that this worker's agent started, or ``ContainersUnknown``: see :class:`RunningContainers`."""
    return RunningContainers().of(worker_id)


class RunningContainers:
    """The running containers of all agents at one moment. Docker is asked once, when the first worker's are wanted.

    Its failure counts for all workers, too: a daemon that hangs costs :data:`_DOCKER_TIMEOUT_S` a question, and a sidecar that
    asked for each of its slots would be taken for hung itself.
    """

    def __init__(self) -> None:
        self._of_worker: dict[str, tuple[str, ...]] | None = None
        self._groups: tuple[str, ...] = ()
        self._failure = ""

    def of(self, worker_id: str) -> tuple[str, ...]:
        """Ids of those that this worker's agent started.

        When the docker daemon does not answer, the kernel is asked (:mod:`scaler_plugin.agent.container_groups`): a dead daemon
        leaves containers running or not, and must neither hide a task nor hold an empty machine for ever. Raises
        ``ContainersUnknown`` when that leaves a doubt.
        """
        if self._of_worker is None:
            try:
                self._of_worker = _ask_docker()
            except _DockerSilent as error:
                self._of_worker, self._groups, self._failure = {}, living_groups(), str(error)
        doubtful = tuple(container for container in self._groups if may_be_of(container, worker_id))
        if doubtful:
            raise ContainersUnknown(
                f"`docker ps` failed ({self._failure}), and processes of containers live: {', '.join(doubtful)}"
            )
        return self._of_worker.get(worker_id, ())


class _DockerSilent(Exception):
    """``docker ps`` gave no answer."""


def _ask_docker() -> dict[str, tuple[str, ...]]:
    """Worker id and containers, by the label ``Worker._worker_label`` of clearml-agent, the same from 1.9 to 3.0."""
    shown = f'{{{{.ID}}}}\t{{{{.Label "{WORKER_LABEL}"}}}}'
    command = ["docker", "ps", "--no-trunc", "--filter", f"label={WORKER_LABEL}", "--format", shown]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_DOCKER_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return {}  # no docker, no containers
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _DockerSilent(str(error)) from error
    if done.returncode != 0:
        raise _DockerSilent(done.stderr.strip())
    found: dict[str, tuple[str, ...]] = {}
    for line in done.stdout.splitlines():
        container, _, worker_id = line.partition("\t")
        found[worker_id] = (*found.get(worker_id, ()), container)
    return found
