"""The agent's side of a slot: may it pull, what did it pull, when did the task end. See :mod:`scaler_plugin.agent.gate`.

Idle is declared only by an agent that is about to ask for a task, and only when nothing of an earlier task lives on the slot.
So an agent that never gets as far as polling (wrong credentials, unknown queue) never makes its slot look idle, and an agent
that is started again while the child of its predecessor still works waits for it.

"Idle since" survives a restart of an idle agent: it was idle before, and resetting the clock would let an agent that crashes
in a loop keep its machine for ever. After a crash *during* a task it begins when the slot is first known to be free.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from scaler_plugin.agent.gate import Gate, slot_directory
from scaler_plugin.agent.processes import ContainersUnknown, lives, living_containers, living_processes, this_process
from scaler_plugin.agent.slot_record import SlotRecord, boottime, read_record, write_record
from scaler_plugin.core.model import QueueName, SlotState, TaskId
from scaler_plugin.errors import HostError

log = structlog.get_logger(__name__)

#: The sidecar's datagram socket in the state directory: any datagram means "a slot's state changed, look".
WAKE_SOCKET = "wake.sock"


class AgentSlot:
    """One slot, as the agent process that runs on it sees it. ``now`` is wall time in seconds since the epoch.

    The order of calls is ``try_enter_pull``, and if that is true ``finish_pull``, and if a task came of it ``task_ended``.
    """

    def __init__(
        self, state_dir: Path, slot: int, worker_id: str, *, docker: bool = False, now: Callable[[], float] = time.time
    ) -> None:
        """Raises ``HostError`` when another agent lives on the slot, or the state directory can't be used."""
        self.directory = slot_directory(state_dir, slot)
        self._wake_path = str(state_dir / WAKE_SOCKET)
        self._gate = Gate(self.directory)
        self._agent = this_process()
        self._worker_id = worker_id
        self._docker = docker
        self._now = now
        self._record = read_record(self.directory)
        if self._record and self._record.agent != self._agent and lives(self._record.agent):
            raise HostError(
                f"Slot {slot} has an agent already, process {self._record.agent.pid} (worker {self._record.worker_id}): "
                "stop that one first, or give this one another --slot."
            )

    def try_enter_pull(self) -> bool:
        """Take the gate for a pull. False when it is closed or when something of an earlier task still lives."""
        if not self._settle():
            return False
        self._gate.release()  # held still if "busy" could not be written and the task was never run
        return self._gate.try_shared()

    def finish_pull(self, task_id: TaskId | None, queue: QueueName | None = None) -> None:
        """The pull's answer is here, or it failed (``None``). Writes "busy" before it gives the gate back."""
        if task_id is not None:
            now, boot = self._now(), boottime()
            busy = self._new_record(SlotState.BUSY, now, boot, boot, task_id, queue)
            try:
                self._write(busy)
            except OSError as error:
                # Without the record only the lock itself says that a task runs: keep it until the task has ended.
                log.error("busy_not_written", task_id=task_id, error=str(error), consequence="the gate stays locked")
                self._record = busy
                return
        self._gate.release()
        if task_id is not None:
            self._wake_sidecar()

    def task_ended(self, *, returned: bool) -> None:
        """``run_one_task`` is over. ``returned`` is False when it raised, and then processes of the task may still live."""
        try:
            if returned:
                self._write_idle(self._now(), boottime())
            elif not self._settle():
                return
        except OSError as error:  # the next pull settles it
            log.error("idle_not_written", error=str(error))
            return
        self._gate.release()

    def _settle(self) -> bool:
        """Make the record say "idle, this agent". False when it can't, since something of a task lives."""
        record = self._record
        if record is not None and record.state is SlotState.IDLE:
            if record.agent != self._agent:
                self._write_idle(record.since, record.since_boottime)
            return True
        # Busy, yet asked for the next task: the agent before this one died in it, or this one never got to run it or was thrown
        # out of it. Or no record: then anything with our marker is a task's.
        if self._something_lives(record):
            return False
        self._write_idle(self._now(), boottime())
        return True

    def _something_lives(self, record: SlotRecord | None) -> bool:
        since = record.written_at if record else 0.0
        if processes := living_processes(self.directory, since, None):
            log.warning("earlier_task_lives", task_id=record and record.task_id, pids=sorted(p.pid for p in processes))
            return True
        if not (record and record.docker):
            return False
        try:
            return bool(living_containers(record.worker_id))
        except ContainersUnknown as error:
            log.warning("containers_unknown", error=str(error))
            return True

    def _write_idle(self, since: float, since_boottime: float) -> None:
        self._write(self._new_record(SlotState.IDLE, since, since_boottime, boottime(), None, None))
        self._wake_sidecar()

    def _new_record(
        self,
        state: SlotState,
        since: float,
        since_boottime: float,
        written_at: float,
        task_id: TaskId | None,
        queue: QueueName | None,
    ) -> SlotRecord:
        return SlotRecord(
            state, since, since_boottime, written_at, self._agent, self._worker_id, self._docker, task_id, queue
        )

    def _write(self, record: SlotRecord) -> None:
        write_record(self.directory, record)
        self._record = record

    def _wake_sidecar(self) -> None:
        """Best effort: the sidecar looks at every step anyway, this makes it look now."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake:
                wake.setblocking(False)
                wake.sendto(b"slot", self._wake_path)
        except OSError:
            pass
