"""What the contract of the gates leaves to the real parts: survivors, leftovers, full disks, clocks, containers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaler_plugin.agent import agent_slot as agent_slot_module
from scaler_plugin.agent.agent_slot import AgentSlot
from scaler_plugin.agent.processes import SLOT_MARKER
from scaler_plugin.agent.slots import NodeSlots
from scaler_plugin.core.model import QueueName, SlotState, TaskId
from scaler_plugin.errors import HostError

T1 = TaskId("task-1")
DEADLINE_S = 20.0


class SteppedClock:
    """The wall clock, off by what a test says."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        return time.time() + self.offset

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def sidecar(tmp_path: Path, clock: SteppedClock) -> NodeSlots:
    return NodeSlots(tmp_path, 1, ["w"], clock)


@pytest.fixture
def agent(tmp_path: Path) -> AgentSlot:
    return AgentSlot(tmp_path, 0, "w")


Start = Callable[..., "subprocess.Popen[bytes]"]


def shows_its_environment(pid: int) -> bool:
    """Popen returns a moment before the kernel has put the new program's environment where /proc shows it."""
    try:
        return bool(Path(f"/proc/{pid}/environ").read_bytes())
    except ProcessLookupError:  # it has ended and is a zombie
        return True


@pytest.fixture
def start(agent: AgentSlot) -> Iterator[Start]:
    """Start a process as the agent would: with the slot's marker."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, env={**os.environ, SLOT_MARKER: str(agent.directory)}))
        wait_until(lambda: shows_its_environment(started[-1].pid))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def pull(agent: AgentSlot) -> None:
    assert agent.try_enter_pull()
    agent.finish_pull(T1, QueueName("q"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def state(sidecar: NodeSlots) -> SlotState:
    return sidecar.slots()[0].state


def test_a_task_whose_run_raised_keeps_the_slot_busy_while_its_processes_live(
    agent: AgentSlot, sidecar: NodeSlots, start: Start
) -> None:
    pull(agent)
    child = start("sleep", "600")
    agent.task_ended(returned=False)
    assert state(sidecar) is SlotState.BUSY
    assert not agent.try_enter_pull()
    child.kill()
    child.wait()
    wait_until(agent.try_enter_pull)
    agent.finish_pull(None)
    assert state(sidecar) is SlotState.IDLE


def test_a_zombie_of_the_task_does_not_count(agent: AgentSlot, sidecar: NodeSlots, start: Start) -> None:
    pull(agent)
    start("true")  # ends, and is not waited for
    wait_until(agent.try_enter_pull)
    agent.finish_pull(None)
    assert state(sidecar) is SlotState.IDLE


def test_what_a_finished_task_left_behind_does_not_hold_the_node(
    agent: AgentSlot, sidecar: NodeSlots, start: Start
) -> None:
    pull(agent)
    start("sleep", "600")
    time.sleep(0.05)  # two ticks: the kernel counts starts in hundredths of a second
    agent.task_ended(returned=True)
    assert sidecar.close()
    assert state(sidecar) is SlotState.IDLE


def test_a_closed_gate_sees_a_living_process_even_where_the_record_says_idle(
    agent: AgentSlot, sidecar: NodeSlots, start: Start
) -> None:
    assert agent.try_enter_pull()
    agent.finish_pull(None)
    start("sleep", "600")
    assert sidecar.close()
    assert state(sidecar) is SlotState.BUSY


def test_a_task_that_was_pulled_but_never_run_is_settled_at_the_next_pull(agent: AgentSlot, sidecar: NodeSlots) -> None:
    pull(agent)
    assert state(sidecar) is SlotState.BUSY
    assert agent.try_enter_pull()
    agent.finish_pull(None)
    assert state(sidecar) is SlotState.IDLE


def test_when_busy_cannot_be_written_the_lock_itself_says_so_until_the_task_ends(
    agent: AgentSlot, sidecar: NodeSlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert agent.try_enter_pull()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(agent_slot_module, "write_record", full)
        agent.finish_pull(T1, QueueName("q"))
        assert not sidecar.close()
    agent.task_ended(returned=True)
    assert sidecar.close()
    assert state(sidecar) is SlotState.IDLE


def test_a_step_of_the_wall_clock_does_not_age_an_idle_slot(
    agent: AgentSlot, sidecar: NodeSlots, clock: SteppedClock
) -> None:
    assert agent.try_enter_pull()
    agent.finish_pull(None)
    clock.offset = 3600.0
    slot = sidecar.slots()[0]
    assert clock.now() - slot.since < 60
    assert sidecar.slots()[0].since == slot.since, "since must not jitter from look to look"


def test_a_second_agent_on_a_slot_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from scaler_plugin.agent.agent_slot import AgentSlot;" + (
        "s = AgentSlot(Path(sys.argv[1]), 0, 'w'); s.try_enter_pull(); print('up', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "up\n"
    try:
        with pytest.raises(HostError, match=f"has an agent already, process {first.pid}"):
            AgentSlot(tmp_path, 0, "w")
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert AgentSlot(tmp_path, 0, "w").try_enter_pull()


def test_each_change_of_state_wakes_the_sidecar(tmp_path: Path, agent: AgentSlot) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake:
        wake.bind(str(tmp_path / "wake.sock"))
        wake.settimeout(5)
        assert agent.try_enter_pull()
        assert wake.recv(16)
        agent.finish_pull(T1)
        assert wake.recv(16)
        agent.task_ended(returned=True)
        assert wake.recv(16)


def fake_docker(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A ``docker`` on PATH that writes down its arguments and does what the script says."""
    directory.mkdir()
    docker = directory / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {directory}/calls\n{script}\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory / "calls"


def test_a_container_of_the_worker_keeps_the_slot_busy_after_its_agent_died(
    tmp_path: Path, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_docker(tmp_path / "bin", monkeypatch, f"cat {tmp_path}/running")
    (tmp_path / "running").write_text("0123abcd\tc:p:t:i-1\n4567\tc:p:t:i-2\n")
    dead = subprocess.Popen(
        [sys.executable, "-c", DOCKER_AGENT, str(tmp_path / "state")], stdout=subprocess.PIPE, text=True
    )
    dead.wait()
    sidecar = NodeSlots(tmp_path / "state", 1, ["c:p:t:i-1"], clock)
    assert state(sidecar) is SlotState.BUSY
    assert "label=clearml-worker-id" in calls.read_text()
    successor = AgentSlot(tmp_path / "state", 0, "c:p:t:i-1", docker=True)
    assert not successor.try_enter_pull()
    (tmp_path / "running").write_text("4567\tc:p:t:i-2\n")
    assert successor.try_enter_pull()


DOCKER_AGENT = """
import sys
from pathlib import Path
from scaler_plugin.agent.agent_slot import AgentSlot
from scaler_plugin.core.model import TaskId
slot = AgentSlot(Path(sys.argv[1]), 0, "c:p:t:i-1", docker=True)
assert slot.try_enter_pull()
slot.finish_pull(TaskId("t"))
"""


def test_a_docker_daemon_that_does_not_answer_leaves_the_slot_busy(
    tmp_path: Path, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(tmp_path / "bin", monkeypatch, "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    subprocess.run([sys.executable, "-c", DOCKER_AGENT, str(tmp_path / "state")], check=True)
    sidecar = NodeSlots(tmp_path / "state", 1, ["c:p:t:i-1"], clock)
    assert sidecar.close()
    assert state(sidecar) is SlotState.BUSY
