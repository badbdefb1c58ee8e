"""Ends by force what runs on a slot: EC2 takes the node in a moment, and its task must not run on beside its next run elsewhere.

The agent is killed first: it would otherwise report its task as failed. Then everything that carries the slot's marker, parents
before their children, and the task's containers once the agent is dead. Whether all of it is gone is for
:class:`scaler_plugin.agent.slots.NodeSlots` to say. The service manager may start the agent again; it pulls nothing while the
gate is closed. A stock agent without the plugin writes no record and knows no marker; it and its task are found by its worker id.

A task may have written the record itself, where it runs as the agent's user: the process it names as the agent is killed only if
that user owns it, and is spared where the record is a file of root's although the slot is not root's alone. While a named agent
lives all the same, the containers are left alone: the task in them then stays "in progress" until the machine ends, and goes back
into its queue, where a living agent would report it failed for good.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from scaler_plugin.agent.gate import slot_directory
from scaler_plugin.agent.processes import (
    ContainersUnknown,
    ProcessKey,
    lives,
    living_containers,
    living_processes,
    owns,
)
from scaler_plugin.agent.slot_record import look_at_record
from scaler_plugin.agent.stock_processes import find_daemon, marked_processes
from scaler_plugin.core.model import Slot, WorkerId

log = structlog.get_logger(__name__)

_DOCKER_KILL_TIMEOUT_S = 10.0
#: SIGKILL takes effect within milliseconds, unless the process waits for a disk; :meth:`LocalSlotEnder.end` is called again.
_DEATH_DEADLINE_S = 2.0


class LocalSlotEnder:
    """Implements ``sidecar.ports.SlotEnder`` on this machine's processes and containers."""

    def __init__(self, state_dir: Path, worker_ids: Sequence[WorkerId]) -> None:
        self._state_dir = state_dir
        self._worker_ids = tuple(worker_ids)

    def end(self, slot: Slot) -> None:
        directory = slot_directory(self._state_dir, slot.index)
        worker_id = self._worker_ids[slot.index]
        look = look_at_record(directory)
        record, owner = look.record, look.owner
        if record is not None:
            agent: ProcessKey | None = record.agent
            may_kill, since, in_docker = owns(owner, record.agent), record.written_at, record.docker
        else:
            agent = find_daemon(worker_id)
            may_kill, since, in_docker = True, 0.0, True
        if agent is not None and may_kill:
            _kill(agent)
        doomed = living_processes(directory, since, owner)
        if record is None:
            doomed |= marked_processes(worker_id)
        for process in sorted(doomed, key=lambda key: (key.started_ticks, key.pid)):
            _kill(process)
        log.warning("slot_ended_by_force", slot=slot.index, task_id=slot.task_id, processes=len(doomed))
        if not in_docker:
            return
        if agent is not None and not _dies(agent, _DEATH_DEADLINE_S if may_kill else 0.0):
            log.warning(
                "containers_spared",
                slot=slot.index,
                why=f"The agent, process {agent.pid}, lives: see process_not_killed.",
            )
            return
        _kill_containers(worker_id)


def _dies(process: ProcessKey, within_s: float) -> bool:
    """Wait until it is dead; whether it is."""
    deadline = time.monotonic() + within_s
    while lives(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _kill(process: ProcessKey) -> None:
    """SIGKILL to that very process: the descriptor is of it alone, even if its id is used again meanwhile."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    except OSError as error:
        log.warning("process_not_killed", pid=process.pid, error=str(error))
        return
    try:
        if lives(process):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return
    except OSError as error:
        log.warning("process_not_killed", pid=process.pid, error=str(error))
    finally:
        os.close(descriptor)


def _kill_containers(worker_id: str) -> None:
    try:
        containers = living_containers(worker_id)
        if containers:
            command = ["docker", "kill", *containers]
            subprocess.run(command, capture_output=True, timeout=_DOCKER_KILL_TIMEOUT_S, check=False)
    except (ContainersUnknown, OSError, subprocess.TimeoutExpired) as error:
        log.warning("containers_not_killed", worker_id=worker_id, error=str(error))
