"""The in-memory twin of a node's slots, for the simulated world: same semantics as ``agent_slot`` and ``slots``, no files.

:class:`MemorySlots` is what a machine keeps while processes come and go (records, locks, what lives). On it stand the sidecar's
:class:`MemoryGates` and, for each slot, the agent process :class:`MemoryAgentSlot`. A process that crashes is let go with
``crash()``, which gives back its locks as the kernel would; its successor is a new object on the same ``MemorySlots``.
Both sides of the twin and of the real parts pass the same contract tests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scaler_plugin.agent.pull_watch import PullWatch
from scaler_plugin.core.model import QueueName, Slot, SlotState, TaskId
from scaler_plugin.core.ports import Clock


@dataclass
class _Slot:
    state: SlotState | None = None  # the record: None, IDLE or BUSY
    since: float = 0.0
    task_id: TaskId | None = None
    queue: QueueName | None = None
    task_lives: bool = False
    writer: MemoryAgentSlot | None = None  # the agent that wrote the record, None once it is dead
    puller: MemoryAgentSlot | None = None  # who holds the gate shared
    closer: MemoryGates | None = None  # who holds it exclusive
    sealed: bool = False


class MemorySlots:
    """The slots of one machine from its boot on."""

    def __init__(self, slots: int, clock: Clock) -> None:
        self.clock = clock
        self.slots = tuple(_Slot() for _ in range(slots))


class MemoryAgentSlot:
    """An agent process on one slot; see :class:`scaler_plugin.agent.agent_slot.AgentSlot` for the order of calls."""

    def __init__(self, machine: MemorySlots, slot: int) -> None:
        self._slot = machine.slots[slot]
        self._clock = machine.clock

    def try_enter_pull(self) -> bool:
        if not self._settle() or self._slot.closer is not None or self._slot.sealed:
            return False
        self._slot.puller = self
        return True

    def finish_pull(self, task_id: TaskId | None, queue: QueueName | None = None) -> None:
        if task_id is not None:
            self._write(SlotState.BUSY, self._clock.now(), task_id, queue)
            self._slot.task_lives = True
        self._slot.puller = None

    def task_ended(self) -> None:
        self._slot.task_lives = False
        self._write(SlotState.IDLE, self._clock.now())

    def crash(self, *, task_survives: bool = False) -> None:
        """The agent's process is killed; what it started may live on until :meth:`survivor_ends`."""
        slot = self._slot
        slot.puller = None
        slot.writer = None
        slot.task_lives = slot.task_lives and task_survives

    def survivor_ends(self) -> None:
        self._slot.task_lives = False

    def _settle(self) -> bool:
        slot = self._slot
        if slot.state is SlotState.IDLE:
            self._write(SlotState.IDLE, slot.since)
        elif slot.task_lives:
            return False
        else:
            self._write(SlotState.IDLE, self._clock.now())
        return True

    def _write(
        self, state: SlotState, since: float, task_id: TaskId | None = None, queue: QueueName | None = None
    ) -> None:
        slot = self._slot
        slot.state, slot.since, slot.task_id, slot.queue, slot.writer = state, since, task_id, queue, self


class MemoryGates:
    """The sidecar's side; implements ``core.ports.Gates``."""

    def __init__(self, machine: MemorySlots) -> None:
        self._machine = machine
        self._derived: dict[int, tuple[SlotState, float]] = {}
        self._pulls = tuple(PullWatch() for _ in machine.slots)

    def slots(self) -> tuple[Slot, ...]:
        clock = self._machine.clock
        seen = []
        for index, (slot, pulls) in enumerate(zip(self._machine.slots, self._pulls, strict=True)):
            pulling_since = pulls.look(slot.puller is not None, clock.monotonic(), clock.now())
            view = self._view(index, slot)
            seen.append(view if pulling_since is None else replace(view, pulling_since=pulling_since))
        return tuple(seen)

    def close(self) -> bool:
        slots = self._machine.slots
        if any(slot.puller is not None or slot.closer not in (None, self) for slot in slots):
            self.open()
            return False
        for slot in slots:
            slot.closer = self
        return True

    def open(self) -> None:
        for slot in self._machine.slots:
            if slot.closer is self:
                slot.closer = None

    def seal(self) -> None:
        for slot in self._machine.slots:
            slot.sealed = True

    def sealed(self) -> bool:
        return any(slot.sealed for slot in self._machine.slots)

    def crash(self) -> None:
        """The sidecar's process is killed: the kernel lets go of what it held."""
        self.open()

    def _view(self, index: int, slot: _Slot) -> Slot:
        if slot.state is None:
            return self._without_record(index, SlotState.STARTING)
        if slot.writer is not None or (slot.state is SlotState.BUSY and slot.task_lives):
            self._derived.pop(index, None)
            return Slot(index, slot.state, slot.since, slot.task_id, slot.queue)
        return self._without_record(index, SlotState.DOWN)

    def _without_record(self, index: int, state: SlotState) -> Slot:
        seen = self._derived.get(index)
        if seen is None or seen[0] is not state:
            seen = self._derived[index] = (state, self._machine.clock.now())
        return Slot(index, state, seen[1])
