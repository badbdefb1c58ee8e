"""The sidecar's side of a node's slots: what each does, and closing all their gates to retire. Implements ``core.ports.Gates``.

What a slot does is its agent's record, corrected by what lives:

- the agent lives: the record is believed, as the agent alone starts tasks and writes the record before it does;
- the agent is gone: busy while a process or container of the task lives, else down;
- no record since the machine booted: starting;
- something in the record's place that is none, or a record that is gone: busy while anything of a task lives or may live, else
  down. Never idle, so the node ends as one without an agent does, if nobody repairs the slot.

While the gates are closed (the node is about to retire) the process tree is looked at in every case, and whatever lives and
started after the record was written makes the slot busy. Otherwise a look costs two small files a slot, and the tree is
searched only after an agent's death.

``since`` of idle and busy comes from the record, so it outlives the sidecar. It is told in today's wall clock even when that was
stepped after the record was written (a machine that boots with a wrong clock must not seem to have idled for years).
``since`` of starting and down is when this sidecar first saw it.

An agent that has held its gate for a pull remarkably long is shown (``pulling_since``, :mod:`scaler_plugin.agent.pull_watch`).

A task in virtual-environment mode can spoil the slot's files. What it spoils is told as the slot's ``problem``; nothing it puts
there is raised or waited for. A gate that has been unusable, or in a stranger's hand, for 20 s (``LONG_PULL_S``) is replaced when
the node wants to retire, unless the slot's agent is in a pull: the node's end is not in the hand of what a task left behind.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from scaler_plugin.agent.gate import Gate, slot_directory
from scaler_plugin.agent.processes import ContainersUnknown, ProcessKey, RunningContainers, lives, living_processes
from scaler_plugin.agent.pull_watch import HeldLocks, PullWatch
from scaler_plugin.agent.slot_record import RecordLook, SlotRecord, boottime, look_at_record
from scaler_plugin.core.model import Slot, SlotState
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import HostError

log = structlog.get_logger(__name__)

#: After an agent's death "nothing is left" must hold for this long: a child in the middle of its start shows no marker yet.
_CONFIRM_S = 1.0

#: How often a dead agent's containers are asked for: ``docker ps`` costs tens of milliseconds.
_CONTAINER_CHECK_S = 10.0

#: So long after the last try is believed why the gate could not be closed: a node that wants to retire tries again within seconds,
#: and any other must not show a problem that is over. Below ``LONG_PULL_S``, or one failure alone would look like a lasting one.
_GATE_ERROR_LASTS_S = 10.0

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
    agent: ProcessKey | None = None  # of the newest record that could be read
    gate_error: str = ""  # why the last try to close the gate failed, other than by a lock
    gate_tried_at: float = float("-inf")  # monotonic
    blocked: PullWatch = field(default_factory=PullWatch)  # the gate is unusable or in a stranger's hand
    blocked_for_long: bool = False
    problem: str = ""


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
            if not self._close(view):
                self.open()
                return False
        self._closed = True
        return True

    def _close(self, view: _SlotView) -> bool:
        if (record := look_at_record(view.directory).record) is not None:
            view.agent = record.agent
        view.gate_tried_at = self._clock.monotonic()
        try:
            held = view.gate.try_exclusive()
            view.gate_error = ""
        except HostError as error:
            held, view.gate_error = False, str(error)
        if held:
            # The gate may be another one than that which the agent holds: a task deleted it during a pull.
            if not HeldLocks().asks(view.agent, view.directory):
                return True
            view.gate.release()
        if not view.blocked_for_long or HeldLocks().asks(view.agent, view.directory):
            return False
        try:
            view.gate.replace()
        except HostError as error:
            view.gate_error = str(error)
            return False
        log.warning("gate_replaced", slot=view.index, problem=view.problem)
        if HeldLocks().asks(
            view.agent, view.directory
        ):  # it got the old one just before: from now on it finds that replaced
            view.gate.release()
            return False
        view.gate_error = ""
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
        locks = None if self._closed else HeldLocks()  # behind closed gates no pull is under way
        containers = RunningContainers()
        return tuple(self._look(view, locks, containers) for view in self._views)

    def _look(self, view: _SlotView, locks: HeldLocks | None, containers: RunningContainers) -> Slot:
        now, wall = self._clock.monotonic(), self._clock.now()
        look = look_at_record(view.directory)
        if look.record is not None:
            view.agent = look.record.agent
        elif not look.trouble and view.agent is not None:
            look = replace(look, trouble=f"The record of slot {view.index} in {view.directory} was deleted.")
        pulling_since = view.pulls.look(locks is not None and locks.asks(view.agent, view.directory), now, wall)
        gate_trouble = self._trouble_with_gate(view, locks, now) if locks is not None else ""
        view.blocked_for_long = view.blocked.look(bool(gate_trouble), now, wall) is not None
        self._tell(view, look.trouble or view.gate_error or (gate_trouble if view.blocked_for_long else ""))
        slot = self._slot(view, look, containers)
        return replace(slot, pulling_since=pulling_since, problem=view.problem)

    @staticmethod
    def _trouble_with_gate(view: _SlotView, locks: HeldLocks, now: float) -> str:
        """What keeps the gate from closing and is no pull; a stranger's short hold, a test of the lock say, passes by itself."""
        try:
            if not stat.S_ISREG(os.lstat(view.gate.path).st_mode):
                return f"{view.gate.path} is no file any more; only something that runs on the slot can have done that."
        except FileNotFoundError:
            pass  # the next that opens it makes it anew
        except OSError as error:
            return f"{view.gate.path} cannot be looked at ({error.strerror})."
        stranger = locks.stranger_on(view.gate.path, view.agent)
        if stranger is not None:
            return f"Process {stranger} holds the lock {view.gate.path} and is not the slot's agent."
        if now - view.gate_tried_at > _GATE_ERROR_LASTS_S:
            view.gate_error = ""
        return view.gate_error

    @staticmethod
    def _tell(view: _SlotView, problem: str) -> None:
        if problem and problem != view.problem:
            log.warning("slot_spoiled", slot=view.index, problem=problem)
        view.problem = problem

    def _slot(self, view: _SlotView, look: RecordLook, containers: RunningContainers) -> Slot:
        record = look.record
        agent_lives = record is not None and lives(record.agent)
        if record is not None and agent_lives and not self._closed:
            return self._recorded(view, record)
        if record is not None and agent_lives and record.state is SlotState.BUSY:
            return self._recorded(view, record)
        searched = self._closed or record is not None or bool(look.trouble)
        if searched and self._something_lives(view, look, containers):
            if record is not None and record.state is SlotState.BUSY:
                return self._recorded(view, record)
            return self._derived(view, SlotState.BUSY)
        if record is None:
            return self._derived(view, SlotState.DOWN if look.trouble else SlotState.STARTING)
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

    def _something_lives(self, view: _SlotView, look: RecordLook, containers: RunningContainers) -> bool:
        """Whether something of a task lives, or may live, that started under this record; in doubt under any."""
        record, doubt = look.record, bool(look.trouble)
        known = view.remains if view.remains.record == record else _Remains(record)
        view.remains = known
        if not self._closed:
            if any(lives(process) for process in known.processes):
                return True
            if known.containers_until is not None and self._clock.monotonic() < known.containers_until:
                return True
            if known.nothing_left and not doubt:  # in doubt an agent may live, and start something
                return False
        since = record.written_at if record else 0.0
        known.processes = living_processes(view.directory, since, look.owner)
        in_containers = (doubt or (record is not None and record.docker)) and self._containers_live(view, containers)
        now = self._clock.monotonic()  # docker may have taken its time
        known.containers_until = now + _CONTAINER_CHECK_S if in_containers else None
        if known.processes or known.containers_until is not None:
            known.nothing_since, known.nothing_left = None, False
            return True
        if known.nothing_since is None:
            known.nothing_since = now
        known.nothing_left = known.nothing_since + _CONFIRM_S < now
        return not known.nothing_left and (doubt or (record is not None and record.state is SlotState.BUSY))

    def _containers_live(self, view: _SlotView, containers: RunningContainers) -> bool:
        try:
            return bool(containers.of(view.worker_id))
        except ContainersUnknown as error:
            log.warning("containers_unknown", slot=view.index, error=str(error))
            return True
