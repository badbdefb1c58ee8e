"""Ends by force what runs on a slot: EC2 takes the node in a moment, and its task must not run on beside its next run elsewhere.

The agent is killed first: it would otherwise report its task as failed. Then everything that carries the slot's marker, and the
task's containers. Whether all of it is gone is for :class:`scaler_plugin.agent.slots.NodeSlots` to say. The service manager may
start the agent again; it pulls nothing while the gate is closed.

A task may have written the record itself, where it runs as the agent's user: the process it names as the agent is killed only if
that user owns it.
"""

from __future__ import annotations

import os
import signal
import subprocess
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
from scaler_plugin.agent.slot_record import read_record, record_owner
from scaler_plugin.core.model import Slot

log = structlog.get_logger(__name__)

_DOCKER_KILL_TIMEOUT_S = 10.0


class LocalSlotEnder:
    """Implements ``sidecar.ports.SlotEnder`` on this machine's processes and containers."""

    def __init__(self, state_dir: Path, worker_ids: Sequence[str]) -> None:
        self._state_dir = state_dir
        self._worker_ids = tuple(worker_ids)

    def end(self, slot: Slot) -> None:
        directory = slot_directory(self._state_dir, slot.index)
        record = read_record(directory)
        owner = record_owner(directory)
        if record is not None and owns(owner, record.agent):
            _kill(record.agent)
        since = record.written_at if record is not None else 0.0
        doomed = living_processes(directory, since, owner)
        for process in doomed:
            _kill(process)
        log.warning("slot_ended_by_force", slot=slot.index, task_id=slot.task_id, processes=len(doomed))
        if record is not None and record.docker:
            _kill_containers(self._worker_ids[slot.index])


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
