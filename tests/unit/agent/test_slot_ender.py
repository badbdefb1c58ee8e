"""Ending a slot by force, on real processes: all of its task and its agent, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler_plugin.agent import slot_ender
from scaler_plugin.agent.gate import slot_directory
from scaler_plugin.agent.processes import SLOT_MARKER, ProcessKey
from scaler_plugin.agent.slot_ender import LocalSlotEnder
from scaler_plugin.agent.slot_record import SlotRecord, boottime, write_record
from scaler_plugin.core.model import Slot, SlotState, TaskId


def key_of(process: subprocess.Popen[bytes]) -> ProcessKey:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return ProcessKey(process.pid, int(fields[19]))


class Machine:
    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.started: list[subprocess.Popen[bytes]] = []
        self.ender = LocalSlotEnder(state_dir, ["worker:0", "worker:1"])

    def start(self, slot: int | None = None) -> subprocess.Popen[bytes]:
        """A process that sleeps, with the slot's marker if one is given; it ignores SIGTERM, as a hanging task may."""
        environment = {} if slot is None else {SLOT_MARKER: str(slot_directory(self.state_dir, slot))}
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        self.started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def busy(self, slot: int, agent: subprocess.Popen[bytes], began: float) -> Slot:
        record = SlotRecord(
            SlotState.BUSY, time.time(), began, began, key_of(agent), f"worker:{slot}", False, TaskId("t")
        )
        write_record(slot_directory(self.state_dir, slot), record)
        return Slot(slot, SlotState.BUSY, time.time(), TaskId("t"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_the_agent_and_every_process_of_its_task_die_and_nobody_else(machine: Machine) -> None:
    began = boottime()
    agent, neighbour, stranger = machine.start(), machine.start(1), machine.start()
    tasks = [machine.start(0), machine.start(0)]
    machine.ender.end(machine.busy(0, agent, began))
    assert [process.wait(10) for process in (agent, *tasks)] == [-9, -9, -9]
    assert [process.poll() for process in (neighbour, stranger)] == [None, None]


def test_what_an_earlier_task_left_behind_is_not_touched(machine: Machine) -> None:
    leftover = machine.start(0)
    time.sleep(0.1)  # past the kernel's tick, so that the record is certainly younger
    agent = machine.start()
    machine.ender.end(machine.busy(0, agent, boottime()))
    assert agent.wait(10) == -9
    assert leftover.poll() is None


def test_a_record_that_names_a_process_of_another_user_kills_nobody(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = machine.start()
    monkeypatch.setattr(slot_ender, "record_owner", lambda _directory: 65_533)
    machine.ender.end(machine.busy(0, victim, boottime()))
    assert victim.poll() is None


def test_a_slot_without_a_record_and_an_agent_that_is_gone_are_no_errors(machine: Machine) -> None:
    machine.ender.end(Slot(0, SlotState.BUSY, 0.0))
    agent = machine.start()
    slot = machine.busy(0, agent, boottime())
    agent.kill()
    agent.wait()
    machine.ender.end(slot)
