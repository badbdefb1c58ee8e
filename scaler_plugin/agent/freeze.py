"""The gates of a node whose agents are stock ``clearml-agent`` daemons without the plugin: freeze, verify, then hold or thaw.

Implements ``core.ports.Gates``. Where the plugin has a lock, this has SIGSTOP: a frozen agent can't ask for a task. What it already
has in hands is found out from four witnesses, all asked while it stands still, and each doubt thaws it:

1. **The kernel**: the agent's main thread sleeps (``/proc/<pid>/syscall``). The daemon's loop sleeps between its rounds, and inside
   the retries of a failed call; it does not sleep while it waits for an answer, nor with a task in hand except in such retries.
   (A connection's state tells nothing: the agent keeps its connections open between calls.)
2. **The process tree**: no process that the agent has started lives, nor a container of its worker.
3. **The server's queues**: no task of the pool's queues is ``queued`` without standing in a queue. An agent that has popped a
   task and not started it leaves exactly that, also when it sleeps in the retry of a failed start.
4. **The server's workers**: no task of these queues is in progress that no *other* worker reports.

Guarantees: while :meth:`FreezeGates.close` holds, the agents hold no task and can pull none. Limits, compared with the plugin: each
agent must be started with ``CLEARML_WORKER_ID`` set to the node's worker id and serve no other queues than the pool's; a task in
limbo anywhere in these queues keeps the node from retiring until it is rescued; a draining node may take one more task, as an agent
is not frozen while it works; an idle time begins anew when the sidecar restarts; an agent that is started while the gates
are closed is frozen at the sidecar's next look, and by then may have pulled. A sidecar that dies leaves its agents frozen until it
is started again, and thaws them then. Linux on x86-64 and ARM only.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from scaler_plugin.agent.processes import ContainersUnknown, ProcessKey, lives, living_containers
from scaler_plugin.agent.stock_processes import (
    children_of,
    find_daemon,
    is_stopped,
    main_thread_sleeps,
    marked_processes,
    task_in_command,
)
from scaler_plugin.core.held_tasks import may_hold_a_task
from scaler_plugin.core.model import QueueName, Slot, SlotState, WorkerId
from scaler_plugin.core.ports import Clock, TaskServer
from scaler_plugin.errors import ScalerError

log = structlog.get_logger(__name__)

#: A search through all processes costs milliseconds; while nothing is known it is made this often.
SEARCH_EVERY_S = 5.0
#: A stop takes effect at once, on a loaded machine within some scheduling rounds.
STOP_DEADLINE_S = 1.0
#: After a doubt that a moment does not clear (the server is away, a task is in limbo) the agent is left alone for so long.
AFTER_DOUBT_S = 5.0


@dataclass
class _StockSlot:
    index: int
    worker_id: WorkerId
    agent: ProcessKey | None = None
    was_seen: bool = False
    searched_at: float = float("-inf")
    task: frozenset[ProcessKey] = field(default_factory=frozenset)  # processes of a task, as last found
    state: tuple[SlotState, float] | None = None  # and since when
    problem: str = ""  # why its agent can be neither frozen nor thawed


class FreezeGates:
    def __init__(
        self,
        worker_ids: Sequence[WorkerId],
        queues: Sequence[QueueName],
        server: Callable[[], TaskServer],
        clock: Clock,
        directory: Path,
    ) -> None:
        """``worker_ids``: the id of each slot's agent; ``queues``: what the agents serve; ``directory``: this boot's state.

        Thaws what a sidecar that died has left frozen, unless the machine is about to end.
        """
        self._queues = tuple(queues)
        self._server = server
        self._clock = clock
        self._seal = directory / "frozen-for-good"
        self._slots = [_StockSlot(index, worker_id) for index, worker_id in enumerate(worker_ids)]
        self._closed = False
        self._not_before = float("-inf")
        for slot in self._slots:
            self._search(slot)
        self.open()

    def slots(self) -> tuple[Slot, ...]:
        return tuple(self._look(slot) for slot in self._slots)

    def close(self) -> bool:
        if self._closed:
            return True
        now = self._clock.monotonic()
        if now < self._not_before or any(self._look(slot).state is SlotState.BUSY for slot in self._slots):
            return False
        doubt = self._freeze_all() or self._why_in_doubt()
        if doubt is None:
            self._closed = True
            return True
        log.info("gate_not_closed", why=doubt)
        self.open()
        return False

    def open(self) -> None:
        self._closed = False
        if not self.sealed():
            for slot in self._slots:
                self._thaw(slot)

    def seal(self) -> None:
        """A frozen agent stays frozen when this process dies; the mark keeps the next one from thawing it."""
        try:
            self._seal.touch()
        except OSError as error:  # a full disk, say
            log.error("gate_not_sealed", error=str(error))

    def sealed(self) -> bool:
        return self._seal.exists()

    def _freeze_all(self) -> str | None:
        """Stop every agent; why one is not at rest, else ``None``."""
        for slot in self._slots:
            self._search(slot)
            if slot.agent is not None and not self._freeze(slot, slot.agent):
                if slot.problem:
                    self._not_before = self._clock.monotonic() + AFTER_DOUBT_S
                return slot.problem or f"the agent of slot {slot.index} is in the middle of something"
        return None

    def _freeze(self, slot: _StockSlot, agent: ProcessKey) -> bool:
        if not self._signal(slot, agent, signal.SIGSTOP):
            return False
        deadline = time.monotonic() + STOP_DEADLINE_S
        while not is_stopped(agent.pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return main_thread_sleeps(agent.pid)

    def _thaw(self, slot: _StockSlot) -> None:
        if slot.agent is not None and lives(slot.agent):
            self._signal(slot, slot.agent, signal.SIGCONT)

    @staticmethod
    def _signal(slot: _StockSlot, agent: ProcessKey, number: signal.Signals) -> bool:
        """Whether it was sent. Where that is not allowed the node works on and never retires, and the log says why, once."""
        problem = ""
        try:
            os.kill(agent.pid, number)
        except ProcessLookupError:  # it ended meanwhile
            return False
        except PermissionError:
            problem = (
                f"The sidecar may not freeze or thaw the agent of slot {slot.index}, process {agent.pid}, "
                "so this node can't retire: run the sidecar as the agent's user, or as root with CAP_KILL."
            )
        if problem and problem != slot.problem:
            log.error("agent_not_signalled", slot=slot.index, problem=problem)
        slot.problem = problem
        return not problem

    def _why_in_doubt(self) -> str | None:
        """With every agent frozen: what speaks for a task in the hands of one of them."""
        for slot in self._slots:
            if self._task_processes(slot):
                return f"processes of a task live on slot {slot.index}"
            try:
                if living_containers(slot.worker_id):
                    return f"a container of slot {slot.index} lives"
            except ContainersUnknown as error:
                return str(error)
        try:
            server = self._server()
            tasks = server.open_tasks(self._queues)  # before the queues: a task that is pulled in between is a doubt
            doubt = may_hold_a_task(
                [slot.worker_id for slot in self._slots], tasks, server.backlogs(self._queues), server.workers()
            )
        except ScalerError as error:
            doubt = f"the server can't be asked: {error}"
        if doubt is not None:
            self._not_before = self._clock.monotonic() + AFTER_DOUBT_S
        return doubt

    def _look(self, slot: _StockSlot) -> Slot:
        self._follow_agent(slot)
        task = self._living_task(slot)
        if task:
            return self._in_state(slot, SlotState.BUSY, task)
        if slot.agent is not None:
            return self._in_state(slot, SlotState.IDLE)
        return self._in_state(slot, SlotState.DOWN if slot.was_seen else SlotState.STARTING)

    def _in_state(self, slot: _StockSlot, state: SlotState, task: frozenset[ProcessKey] = frozenset()) -> Slot:
        if slot.state is None or slot.state[0] is not state:
            slot.state = state, self._clock.now()
        task_id = next((found for process in task if (found := task_in_command(process.pid))), None)
        return Slot(slot.index, state, slot.state[1], task_id)

    def _follow_agent(self, slot: _StockSlot) -> None:
        if slot.agent is not None and lives(slot.agent):
            return
        slot.agent, slot.problem = None, ""
        if self._closed or self._clock.monotonic() - slot.searched_at >= SEARCH_EVERY_S:
            self._search(slot)
            if self._closed and slot.agent is not None:
                self._freeze(slot, slot.agent)

    def _search(self, slot: _StockSlot) -> None:
        slot.searched_at = self._clock.monotonic()
        slot.agent = find_daemon(slot.worker_id)
        slot.was_seen = slot.was_seen or slot.agent is not None
        slot.task = self._task_processes(slot)

    def _living_task(self, slot: _StockSlot) -> frozenset[ProcessKey]:
        """Processes of a task: children of the agent, and what an agent before it left behind."""
        slot.task = frozenset(process for process in slot.task if lives(process))
        if slot.agent is not None:
            slot.task |= children_of(slot.agent.pid)
        return slot.task

    def _task_processes(self, slot: _StockSlot) -> frozenset[ProcessKey]:
        own = {slot.agent} if slot.agent is not None else set()
        return marked_processes(slot.worker_id) - own
