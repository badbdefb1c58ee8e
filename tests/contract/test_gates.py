"""What the sidecar may rely on of a node's slots and gates: once on files, locks and processes, once in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from scaler_plugin.agent.memory_gates import MemoryAgentSlot, MemoryGates, MemorySlots
from scaler_plugin.agent.pull_watch import LONG_PULL_S
from scaler_plugin.agent.slots import NodeSlots
from scaler_plugin.core.model import QueueName, SlotState, TaskId
from scaler_plugin.core.ports import Gates

from ..waiting import until

T1 = TaskId("task-1")
QUEUE = QueueName("gpu")


class SkippingClock:
    """The real clocks, which a test can put forward."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def skip(self, seconds: float) -> None:
        self._skipped += seconds

    def now(self) -> float:
        return time.time() + self._skipped

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped


class Agent(Protocol):
    def try_enter_pull(self) -> bool: ...
    def finish_pull(self, task_id: TaskId | None) -> None: ...
    def task_ended(self) -> None: ...
    def crash(self, *, task_survives: bool) -> None: ...
    def survivor_ends(self) -> None: ...


class Machine(Protocol):
    """A node: processes come and go on it."""

    clock: SkippingClock

    def agent(self, slot: int = 0) -> Agent: ...
    def sidecar(self) -> Gates: ...
    def kill_sidecar(self, sidecar: Gates) -> None: ...


class ProcessAgent:
    """The agent as a process; the sidecar sees of it what the kernel and the files tell."""

    def __init__(self, state_dir: Path, slot: int, started: list[int]) -> None:
        command = [
            sys.executable,
            str(Path(__file__).with_name("agent_process.py")),
            str(state_dir),
            str(slot),
            f"w:{slot}",
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._started = started
        self._task_pid = 0
        started.append(self._process.pid)
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def try_enter_pull(self) -> bool:
        return self.ask("enter") == "yes"

    def finish_pull(self, task_id: TaskId | None) -> None:
        if task_id is None:
            self.ask("empty")
        else:
            self._task_pid = int(self.ask(f"pulled {task_id} {QUEUE}"))
            self._started.append(self._task_pid)

    def task_ended(self) -> None:
        self.ask("ended")

    def crash(self, *, task_survives: bool) -> None:
        self._process.kill()
        self._process.wait()
        if self._task_pid and not task_survives:
            os.kill(self._task_pid, signal.SIGKILL)

    def survivor_ends(self) -> None:
        os.kill(self._task_pid, signal.SIGKILL)


class RealMachine:
    def __init__(self, state_dir: Path, slots: int) -> None:
        self._state_dir, self._slots = state_dir, slots
        self.started: list[int] = []
        self.clock = SkippingClock()

    def agent(self, slot: int = 0) -> ProcessAgent:
        return ProcessAgent(self._state_dir, slot, self.started)

    def sidecar(self) -> NodeSlots:
        return NodeSlots(self._state_dir, self._slots, [f"w:{slot}" for slot in range(self._slots)], self.clock)

    def kill_sidecar(self, sidecar: Gates) -> None:
        # In one process with the test: the kernel would close its files, which is what letting go of the object does.
        sidecar.open()

    def end(self) -> None:
        for pid in self.started:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


class MemoryMachine:
    def __init__(self, slots: int) -> None:
        self.clock = SkippingClock()
        self._machine = MemorySlots(slots, self.clock)

    def agent(self, slot: int = 0) -> MemoryAgentSlot:
        return MemoryAgentSlot(self._machine, slot)

    def sidecar(self) -> MemoryGates:
        return MemoryGates(self._machine)

    def kill_sidecar(self, sidecar: Gates) -> None:
        assert isinstance(sidecar, MemoryGates)
        sidecar.crash()


MakeMachine = Callable[[int], Machine]


@pytest.fixture(params=["files", "memory"])
def make_machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeMachine]:
    real: list[RealMachine] = []

    def make(slots: int) -> Machine:
        if request.param == "memory":
            return MemoryMachine(slots)
        real.append(RealMachine(tmp_path / "state", slots))
        return real[-1]

    yield make
    for machine in real:
        machine.end()


@pytest.fixture
def machine(make_machine: MakeMachine) -> Machine:
    return make_machine(1)


def state(gates: Gates, slot: int = 0) -> SlotState:
    return gates.slots()[slot].state


def wait_for_state(gates: Gates, wanted: SlotState) -> None:
    until(lambda: state(gates) is wanted, f"the slot is {wanted}", seen=lambda: state(gates))


def poll_once(agent: Agent) -> bool:
    entered = agent.try_enter_pull()
    if entered:
        agent.finish_pull(None)
    return entered


def poll_empty(agent: Agent) -> None:
    assert agent.try_enter_pull()
    agent.finish_pull(None)


def pull(agent: Agent, task_id: TaskId = T1) -> None:
    assert agent.try_enter_pull()
    agent.finish_pull(task_id)


def test_a_slot_is_starting_until_its_agent_polls_and_idle_from_then(machine: Machine) -> None:
    sidecar = machine.sidecar()
    assert state(sidecar) is SlotState.STARTING
    agent = machine.agent()
    assert state(sidecar) is SlotState.STARTING
    before = time.time()
    poll_empty(agent)
    slot = sidecar.slots()[0]
    assert slot.state is SlotState.IDLE
    assert before <= slot.since <= time.time()


def test_idle_since_does_not_move_with_further_empty_polls(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    poll_empty(agent)
    since = sidecar.slots()[0].since
    poll_empty(agent)
    assert sidecar.slots()[0].since == since


def test_a_slot_names_the_task_and_its_queue_while_it_runs_and_is_idle_after(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    pull(agent)
    slot = sidecar.slots()[0]
    assert (slot.state, slot.task_id) == (SlotState.BUSY, T1)
    agent.task_ended()
    after = sidecar.slots()[0]
    assert (after.state, after.task_id, after.queue) == (SlotState.IDLE, None, None)
    assert after.since >= slot.since


def test_no_pull_begins_while_the_gate_is_closed_and_one_does_when_it_opens(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    poll_empty(agent)
    assert sidecar.close()
    assert not agent.try_enter_pull()
    assert state(sidecar) is SlotState.IDLE
    sidecar.open()
    assert agent.try_enter_pull()


def test_the_gate_does_not_close_during_a_pull(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    assert agent.try_enter_pull()
    assert not sidecar.close()
    agent.finish_pull(None)
    assert sidecar.close()


def test_whoever_closes_the_gate_after_a_pull_sees_the_task(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    pull(agent)
    assert sidecar.close()
    assert state(sidecar) is SlotState.BUSY


def test_closing_twice_and_opening_twice_is_harmless(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    assert sidecar.close()
    assert sidecar.close()
    sidecar.open()
    sidecar.open()
    assert agent.try_enter_pull()


def test_a_pull_that_lasts_is_shown_with_its_beginning_and_a_short_one_is_not(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    assert agent.try_enter_pull()
    before = machine.clock.now()
    assert sidecar.slots()[0].pulling_since is None
    machine.clock.skip(LONG_PULL_S - 5)
    assert sidecar.slots()[0].pulling_since is None
    machine.clock.skip(10)
    since = sidecar.slots()[0].pulling_since
    assert since is not None
    assert before <= since <= before + 5
    agent.finish_pull(None)
    assert sidecar.slots()[0].pulling_since is None


def test_pulls_with_pauses_in_between_are_not_one_long_pull(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    for _ in range(3):
        assert agent.try_enter_pull()
        assert sidecar.slots()[0].pulling_since is None
        machine.clock.skip(LONG_PULL_S - 5)
        agent.finish_pull(None)
        assert sidecar.slots()[0].pulling_since is None


def test_looking_for_a_long_pull_never_costs_the_agent_a_poll(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            sidecar.slots()

    looker = threading.Thread(target=look)
    looker.start()
    try:
        assert all(poll_once(agent) for _ in range(300))
    finally:
        stop.set()
        looker.join()


def test_the_pull_of_an_agent_that_died_in_it_is_over(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    poll_empty(agent)
    assert agent.try_enter_pull()
    sidecar.slots()
    machine.clock.skip(LONG_PULL_S + 5)
    agent.crash(task_survives=False)
    assert sidecar.slots()[0].pulling_since is None


def test_gates_close_all_or_none(make_machine: MakeMachine) -> None:
    machine = make_machine(2)
    sidecar, first, second = machine.sidecar(), machine.agent(0), machine.agent(1)
    assert second.try_enter_pull()
    assert not sidecar.close()
    assert first.try_enter_pull(), "the first gate was left closed"


def test_a_killed_sidecar_leaves_the_gate_open_and_its_successor_can_close_it(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    poll_empty(agent)
    since = sidecar.slots()[0].since
    assert sidecar.close()
    machine.kill_sidecar(sidecar)
    poll_empty(agent)
    successor = machine.sidecar()
    assert successor.slots()[0].since == since, "idle since must outlive the sidecar"
    assert successor.close()


def test_a_sealed_gate_stays_closed_for_agents_when_the_sidecar_that_sealed_it_dies(make_machine: MakeMachine) -> None:
    machine = make_machine(2)
    agents, sidecar = [machine.agent(0), machine.agent(1)], machine.sidecar()
    for agent in agents:
        poll_empty(agent)
    assert sidecar.close()
    assert not sidecar.sealed()
    sidecar.seal()
    machine.kill_sidecar(sidecar)
    successor = machine.sidecar()
    assert successor.sealed()
    assert [agent.try_enter_pull() for agent in agents] == [False, False]
    assert successor.close()
    successor.open()
    assert [agent.try_enter_pull() for agent in agents] == [False, False]


def test_a_node_is_idle_only_when_every_slot_is(make_machine: MakeMachine) -> None:
    machine = make_machine(3)
    agents, sidecar = [machine.agent(slot) for slot in range(3)], machine.sidecar()
    for agent in agents:
        poll_empty(agent)
    pull(agents[1])
    assert sidecar.close(), "a running task does not hold the gate"
    assert [slot.state for slot in sidecar.slots()] == [SlotState.IDLE, SlotState.BUSY, SlotState.IDLE]
    sidecar.open()
    agents[1].task_ended()
    wait_for_state(sidecar, SlotState.IDLE)
    assert [slot.state for slot in sidecar.slots()] == [SlotState.IDLE] * 3


def test_two_sidecars_cannot_both_hold_the_gate(machine: Machine) -> None:
    first, second = machine.sidecar(), machine.sidecar()
    assert first.close()
    assert not second.close()


def test_an_agent_killed_in_a_pull_does_not_block_retirement(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    poll_empty(agent)
    assert agent.try_enter_pull()
    agent.crash(task_survives=False)
    assert sidecar.close()
    assert state(sidecar) is SlotState.DOWN


def test_a_slot_is_down_when_the_agent_died_idle(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    poll_empty(agent)
    agent.crash(task_survives=False)
    assert state(sidecar) is SlotState.DOWN


def test_a_slot_stays_busy_while_the_task_outlives_its_agent_and_is_down_after(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    pull(agent)
    agent.crash(task_survives=True)
    slot = sidecar.slots()[0]
    assert (slot.state, slot.task_id) == (SlotState.BUSY, T1)
    assert sidecar.close()
    assert state(sidecar) is SlotState.BUSY
    sidecar.open()
    agent.survivor_ends()
    wait_for_state(sidecar, SlotState.DOWN)


def test_a_restarted_agent_neither_pulls_nor_declares_idle_while_the_earlier_task_lives(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    pull(agent)
    agent.crash(task_survives=True)
    successor = machine.agent()
    assert not successor.try_enter_pull()
    assert state(sidecar) is SlotState.BUSY
    agent.survivor_ends()
    until(successor.try_enter_pull)
    successor.finish_pull(None)
    assert state(sidecar) is SlotState.IDLE


def test_idle_begins_anew_when_an_agent_died_in_a_task(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    pull(agent)
    agent.crash(task_survives=False)
    restarted_at = time.time()
    poll_empty(machine.agent())
    assert sidecar.slots()[0].since >= restarted_at


def test_idle_goes_on_when_an_idle_agent_is_restarted(machine: Machine) -> None:
    sidecar, agent = machine.sidecar(), machine.agent()
    poll_empty(agent)
    since = sidecar.slots()[0].since
    agent.crash(task_survives=False)
    poll_empty(machine.agent())
    slot = sidecar.slots()[0]
    assert (slot.state, slot.since) == (SlotState.IDLE, since)
