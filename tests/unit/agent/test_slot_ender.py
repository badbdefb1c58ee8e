"""Ending a slot by force, on real processes: all of its task and its agent, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scaler_plugin.agent import slot_ender
from scaler_plugin.agent.gate import slot_directory
from scaler_plugin.agent.processes import SLOT_MARKER, ProcessKey
from scaler_plugin.agent.slot_ender import LocalSlotEnder
from scaler_plugin.agent.slot_record import SlotRecord, boottime, look_at_record, write_record
from scaler_plugin.agent.stock_processes import WORKER_VARIABLE
from scaler_plugin.core.model import Slot, SlotState, TaskId, WorkerId


def key_of(process: subprocess.Popen[bytes]) -> ProcessKey:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return ProcessKey(process.pid, int(fields[19]))


class Machine:
    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.started: list[subprocess.Popen[bytes]] = []
        self.ender = LocalSlotEnder(state_dir, [WorkerId("worker:0"), WorkerId("worker:1")])

    def start(self, slot: int | None = None, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """A process that sleeps, with the slot's marker if one is given; it ignores SIGTERM, as a hanging task may."""
        if slot is not None:
            environment[SLOT_MARKER] = str(slot_directory(self.state_dir, slot))
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE)
        self.started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def busy(self, slot: int, agent: subprocess.Popen[bytes], began: float, *, docker: bool = False) -> Slot:
        record = SlotRecord(
            SlotState.BUSY, time.time(), began, began, key_of(agent), f"worker:{slot}", docker, TaskId("t")
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
    monkeypatch.setattr(
        slot_ender, "look_at_record", lambda directory: replace(look_at_record(directory), owner=65_533)
    )
    machine.ender.end(machine.busy(0, victim, boottime()))
    assert victim.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a slot to another group")
@pytest.mark.parametrize("mode", [0o660, 0o640])
def test_a_record_in_a_file_of_roots_on_a_shared_slot_kills_none_of_roots_processes(
    machine: Machine, mode: int
) -> None:
    """A task moves the sidecar's own file into the record's place, with its own words in it."""
    victim = machine.start()
    slot = machine.busy(0, victim, boottime())
    directory = slot_directory(machine.state_dir, 0)
    os.chown(directory, -1, 65_533)
    (directory / "state.json").chmod(mode)
    machine.ender.end(slot)
    assert victim.poll() is None


def test_a_slot_without_a_record_and_an_agent_that_is_gone_are_no_errors(machine: Machine) -> None:
    machine.ender.end(Slot(0, SlotState.BUSY, 0.0))
    agent = machine.start()
    slot = machine.busy(0, agent, boottime())
    agent.kill()
    agent.wait()
    machine.ender.end(slot)


def docker_that_notes_whether(agent: subprocess.Popen[bytes], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``docker`` with one container of worker 0. When that is killed it notes in the file returned how the agent does."""
    noted = folder / "noted"
    docker = folder / "docker"
    docker.write_text(
        f"""#!/bin/sh
case $1 in
  ps) printf 'c1\\tworker:0\\n' ;;
  kill) sed 's/.*) //' /proc/{agent.pid}/stat 2>/dev/null | cut -c 1 >>{noted}; echo "$@" >>{noted} ;;
esac
"""
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return noted


def test_a_container_is_killed_when_its_agent_is_dead_and_no_sooner(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = machine.start()
    noted = docker_that_notes_whether(agent, tmp_path, monkeypatch)
    real_kill = slot_ender._kill
    dying: list[threading.Timer] = []

    def kill_slowly(process: ProcessKey) -> None:
        """As a signal that the agent gets to feel only after a while."""
        dying.append(threading.Timer(0.3, real_kill, (process,)))
        dying[-1].start()

    monkeypatch.setattr(slot_ender, "_kill", kill_slowly)
    machine.ender.end(machine.busy(0, agent, boottime(), docker=True))
    for timer in dying:
        timer.join()
    assert noted.read_text().splitlines() == ["Z", "kill c1"]


def test_while_an_agent_lives_that_may_not_be_killed_its_containers_are_spared(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = machine.start()
    noted = docker_that_notes_whether(agent, tmp_path, monkeypatch)
    monkeypatch.setattr(
        slot_ender, "look_at_record", lambda directory: replace(look_at_record(directory), owner=65_533)
    )
    machine.ender.end(machine.busy(0, agent, boottime(), docker=True))
    assert agent.poll() is None
    assert not noted.exists()


def test_a_stock_agent_and_its_task_are_found_by_their_worker_id(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = machine.start(None, "clearml_agent", "daemon", **{WORKER_VARIABLE: "worker:0"})
    task = machine.start(None, "clearml_agent", "execute", "--id", "t", **{WORKER_VARIABLE: "worker:0"})
    neighbour = machine.start(None, "clearml_agent", "daemon", **{WORKER_VARIABLE: "worker:1"})
    noted = docker_that_notes_whether(agent, tmp_path, monkeypatch)
    machine.ender.end(Slot(0, SlotState.BUSY, 0.0, TaskId("t")))
    assert [process.wait(10) for process in (agent, task)] == [-9, -9]
    assert neighbour.poll() is None
    assert noted.read_text().splitlines() == ["Z", "kill c1"]
