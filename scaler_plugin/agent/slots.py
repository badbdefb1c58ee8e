"""The sidecar's side of a node's slots: what each does, and closing all their gates to retire. Implements ``core.ports.Gates``.

What a slot does is its agent's record, corrected by what lives:

- the agent lives: the record is believed, as the agent alone starts tasks and writes the record before it does;
- the agent is gone: busy while a process or container of the task lives, else down;
- no record since the machine booted: starting.

While the gates are closed (the node is about to retire) the process tree is looked at in every case, and whatever lives and
started after the record was written makes the slot busy. Otherwise a look costs two small files a slot, and the tree is
searched only after an agent's death.

``since`` of idle and busy comes from the record, so it outlives the sidecar. It is told in today's wall clock even when that was
stepped after the record was written (a machine that boots with a wrong clock must not seem to have idled for years).
``since`` of starting and down is when this sidecar first saw it.

An agent that has held its gate for a pull remarkably long is shown (``pulling_since``, :mod:`scaler_plugin.agent.pull_watch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from scaler_plugin.agent.gate import Gate, slot_directory
from scaler_plugin.agent.processes import ContainersUnknown, ProcessKey, lives, living_containers, living_processes
from scaler_plugin.agent.pull_watch import PullWatch, SharedLocks
from scaler_plugin.agent.slot_record import SlotRecord, boottime, read_record, record_owner
from scaler_plugin.core.model import Slot, SlotState
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import HostError

log = structlog.get_logger(__name__)

#: After an agent's death "nothing is left" must hold for this long: a child in the middle of its start shows no marker yet.
_CONFIRM_S = 1.0

#: How often a dead agent's containers are asked for: ``docker ps`` costs tens of milliseconds.
_CONTAINER_CHECK_S = 10.0

#: Wall clock and boot clock drift apart by NTP's slewing; only a step beyond this is corrected.
_CLOCK_STEP_S = 2.0


@dataclass
class _Remains:
    """What was found of a slot's task under one record, so that it is not searched for every second."""

    record: SlotRecord | None
    processes: frozenset[ProcessKey] = frozenset()
    containers_until: float | None = None  # containers were found (or not known): believe it until then
    nothing_since: float | None = None  # the first search that found nothing
    nothing_left: bool = False  # a later one confirmed it: without an agent nothing can come back


@dataclass
class _SlotView:
    """One slot and what this sidecar remembers about it; all of it can be found anew."""

    index: int
    worker_id: str
    directory: Path
    gate: Gate
    pulls: PullWatch = field(default_factory=PullWatch)
    remains: _Remains = field(default_factory=lambda: _Remains(None))
    since: float | None = None  # the present record's, in today's wall clock
    since_of: SlotRecord | None = None
    derived: tuple[SlotState, float] | None = None  # a state that no record gives, and when it was first seen


class NodeSlots:
    """The slots of this node on real files, locks and processes."""

    def __init__(self, state_dir: Path, slots: int, worker_ids: Sequence[str], clock: Clock) -> None:
        """``worker_ids`` holds the ClearML worker id of each slot. Raises ``HostError`` if the directory can't be used."""
        if len(worker_ids) != slots:
            raise ValueError(f"{slots} slots need {slots} worker ids, not {len(worker_ids)}")
        self._clock = clock
        self._closed = False
        self._views = []
        for index, worker_id in enumerate(worker_ids):
            directory = slot_directory(state_dir, index)
            self._views.append(_SlotView(index, worker_id, directory, Gate(directory)))

    def close(self) -> bool:
        """Take every gate exclusively, or none. True while held; the caller must look at :meth:`slots` *after* this."""
        if self._closed:
            return True
        for view in self._views:
            if not view.gate.try_exclusive():
                self.open()
                return False
        self._closed = True
        return True

    def open(self) -> None:
        self._closed = False
        for view in self._views:
            view.gate.release()

    def seal(self) -> None:
        for view in self._views:
            try:
                view.gate.seal()
            except HostError as error:  # a full disk, say: the lock holds for as long as this process lives
                log.error("gate_not_sealed", slot=view.index, error=str(error))

    def sealed(self) -> bool:
        return any(view.gate.sealed for view in self._views)

    def slots(self) -> tuple[Slot, ...]:
        locks = None if self._closed else SharedLocks()  # behind closed gates no pull is under way
        return tuple(self._slot_with_pull(view, locks) for view in self._views)

    def _slot_with_pull(self, view: _SlotView, locks: SharedLocks | None) -> Slot:
        record = read_record(view.directory)
        under_way = locks is not None and locks.on(view.gate.path, record.agent.pid if record else None)
        pulling_since = view.pulls.look(under_way, self._clock.monotonic(), self._clock.now())
        slot = self._slot(view, record)
        return slot if pulling_since is None else replace(slot, pulling_since=pulling_since)

    def _slot(self, view: _SlotView, record: SlotRecord | None) -> Slot:
        agent_lives = record is not None and lives(record.agent)
        if record is not None and agent_lives and not self._closed:
            return self._recorded(view, record)
        if record is not None and agent_lives and record.state is SlotState.BUSY:
            return self._recorded(view, record)
        if (self._closed or record is not None) and self._something_lives(view, record):
            if record is not None and record.state is SlotState.BUSY:
                return self._recorded(view, record)
            return self._derived(view, SlotState.BUSY)
        if record is None:
            return self._derived(view, SlotState.STARTING)
        return self._recorded(view, record) if agent_lives else self._derived(view, SlotState.DOWN)

    def _recorded(self, view: _SlotView, record: SlotRecord) -> Slot:
        view.derived = None
        age = boottime() - record.since_boottime
        today = self._clock.now() - age
        if view.since_of != record or view.since is None:
            view.since_of, view.since = record, record.since
        if abs(today - view.since) > _CLOCK_STEP_S:
            view.since = today
        return Slot(view.index, record.state, view.since, record.task_id, record.queue)

    def _derived(self, view: _SlotView, state: SlotState) -> Slot:
        if view.derived is None or view.derived[0] is not state:
            view.derived = (state, self._clock.now())
        return Slot(view.index, state, view.derived[1])

    def _something_lives(self, view: _SlotView, record: SlotRecord | None) -> bool:
        """Whether something of a task lives, or may live, that started under this record."""
        now = self._clock.monotonic()
        known = view.remains if view.remains.record == record else _Remains(record)
        view.remains = known
        if not self._closed:
            if any(lives(process) for process in known.processes):
                return True
            if known.containers_until is not None and now < known.containers_until:
                return True
            if known.nothing_left:
                return False
        since = record.written_at if record else 0.0
        known.processes = living_processes(view.directory, since, record_owner(view.directory))
        known.containers_until = now + _CONTAINER_CHECK_S if self._containers_live(view, record) else None
        if known.processes or known.containers_until is not None:
            known.nothing_since, known.nothing_left = None, False
            return True
        if known.nothing_since is None:
            known.nothing_since = now
        known.nothing_left = known.nothing_since + _CONFIRM_S < now
        return not known.nothing_left and record is not None and record.state is SlotState.BUSY

    def _containers_live(self, view: _SlotView, record: SlotRecord | None) -> bool:
        if record is None or not record.docker:
            return False
        try:
            return bool(living_containers(view.worker_id))
        except ContainersUnknown as error:
            log.warning("containers_unknown", slot=view.index, error=str(error))
            return True
