"""The dead-man's script on real processes and locks, with ``systemctl`` and ``sleep`` replaced by recorders."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler_plugin.agent.processes import ProcessKey, this_process
from scaler_plugin.agent.slot_record import SlotRecord, boottime, write_record
from scaler_plugin.core.model import QueueName, SlotState, TaskId
from scaler_plugin.node.heartbeat import beat

SCRIPT = Path(__file__).parents[3] / "ami" / "deadman.sh"
LONG_DEAD = ProcessKey(2**22 + 1, 1)  # above the kernel's largest process id


class Node:
    """A state directory with one slot, and the script run on it."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder / "state"
        self.slot = self.state_dir / "slots" / "0"
        self.slot.mkdir(parents=True)
        self.gate = self.slot / "gate.lock"
        self.gate.touch()
        self._recorders = folder / "bin"
        self._recorders.mkdir()
        self._done = folder / "done"
        for name in ("systemctl", "sleep"):
            recorder = self._recorders / name
            recorder.write_text(f'#!/bin/sh\necho {name} "$@" >>{self._done}\n')
            recorder.chmod(0o755)
        # Asked only where containers live, as they may on this machine: none of them is an agent's.
        docker = self._recorders / "docker"
        docker.write_text("#!/bin/sh\n")
        docker.chmod(0o755)

    def sidecar_alive(self) -> None:
        beat(self.state_dir)

    def sidecar_silent_for(self, seconds: float) -> None:
        (self.state_dir / "heartbeat").write_text(f"{max(0.0, boottime() - seconds):13.2f}\n")

    def record(self, state: SlotState, agent: ProcessKey, written_at: float) -> None:
        task = (TaskId("t1"), QueueName("q")) if state is SlotState.BUSY else (None, None)
        write_record(self.slot, SlotRecord(state, time.time(), written_at, written_at, agent, "w", False, *task))

    def task_process(self) -> subprocess.Popen[bytes]:
        marked = {**os.environ, "SCALER_SLOT_DIR": str(self.slot.resolve())}
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=marked)

    def look(self, **settings: str) -> str:
        """Run the script once; what it said."""
        done = subprocess.run(
            [SCRIPT],
            env={
                "PATH": f"{self._recorders}:/usr/bin:/bin:/usr/sbin:/sbin",
                "SCALER_STATE_DIR": str(self.state_dir),
                "DEADMAN_SILENCE_S": "1",
                **settings,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout

    @property
    def powered_off(self) -> bool:
        return self._done.exists() and "systemctl poweroff" in self._done.read_text().splitlines()

    @property
    def steps(self) -> list[str]:
        return self._done.read_text().splitlines()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def task(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    process = node.task_process()
    # The marker is in the environment from the start of the program on.
    until = time.monotonic() + 10
    environ = Path(f"/proc/{process.pid}/environ")
    while b"SCALER_SLOT_DIR" not in environ.read_bytes():
        assert time.monotonic() < until
    yield process
    process.kill()
    process.wait()


def test_a_living_sidecar_is_left_alone(node: Node) -> None:
    node.sidecar_alive()
    assert node.look(DEADMAN_SILENCE_S="600") == ""
    assert not node.powered_off


def test_a_dead_sidecar_with_an_idle_slot_ends_the_machine(node: Node) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.IDLE, this_process(), boottime())
    said = node.look()
    assert "The sidecar has shown no life" in said
    assert "nothing works here: powering off" in said
    assert node.powered_off


def test_a_shutdown_that_does_not_end_is_forced(node: Node) -> None:
    node.sidecar_silent_for(5)
    node.look()
    assert node.steps == ["systemctl poweroff", "sleep 120", "systemctl poweroff --force --force"]


def test_no_task_is_ended_while_its_agent_lives(node: Node) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.BUSY, this_process(), boottime())
    assert "slot 0 works on task t1: the machine stays on" in node.look()
    assert not node.powered_off


def test_a_task_that_outlives_its_agent_keeps_the_machine_on(node: Node, task: subprocess.Popen[bytes]) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.BUSY, LONG_DEAD, boottime() - 5)
    assert f"process {task.pid} of slot 0 lives" in node.look()
    assert not node.powered_off


def test_once_that_task_has_ended_the_machine_goes(node: Node, task: subprocess.Popen[bytes]) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.BUSY, LONG_DEAD, boottime() - 5)
    task.kill()  # and not yet waited for: a zombie is no work
    wait_until_zombie(task.pid)
    node.look()
    assert node.powered_off


def test_what_an_ended_task_left_behind_is_nobodys_work(node: Node, task: subprocess.Popen[bytes]) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.IDLE, this_process(), boottime() + 1)
    node.look()
    assert node.powered_off


def test_a_process_of_a_slot_without_any_record_is_work(node: Node, task: subprocess.Popen[bytes]) -> None:
    node.sidecar_silent_for(5)
    assert f"process {task.pid} of slot 0 lives" in node.look()
    assert not node.powered_off


def test_a_pull_under_way_keeps_the_machine_on(node: Node) -> None:
    node.sidecar_silent_for(5)
    with node.gate.open() as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
        assert "an agent holds" in node.look()
    assert not node.powered_off


def test_every_gate_of_several_slots_is_taken(node: Node) -> None:
    node.sidecar_silent_for(5)
    for slot in range(1, 12):
        (node.state_dir / "slots" / str(slot)).mkdir()
        (node.state_dir / "slots" / str(slot) / "gate.lock").touch()
    with (node.state_dir / "slots" / "7" / "gate.lock").open() as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
        assert "slots/7/gate.lock: not now" in node.look()
        assert not node.powered_off
    node.look()
    assert node.powered_off


def test_a_busy_record_of_an_earlier_boot_is_not_believed(node: Node) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.BUSY, this_process(), boottime())
    state = node.slot / "state.json"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    state.write_text(state.read_text().replace(boot_id, "0" * 8))
    node.look()
    assert node.powered_off


def test_a_link_or_a_pipe_in_place_of_a_slots_files_neither_stops_nor_fools_it(node: Node, tmp_path: Path) -> None:
    node.sidecar_silent_for(5)
    os.mkfifo(node.slot / "state.json")
    node.gate.unlink()
    node.gate.symlink_to(tmp_path / "made-by-root")
    node.look()
    assert node.powered_off
    assert not (tmp_path / "made-by-root").exists()


def test_a_sidecar_that_never_started_has_the_pools_startup_time(node: Node) -> None:
    up = boottime()
    (node.state_dir / "startup_timeout").write_text(f"{up + 1000:.0f}\n")
    assert node.look(DEADMAN_STARTUP_S="1", DEADMAN_GRACE_S="0") == ""
    (node.state_dir / "startup_timeout").write_text("1\n")
    assert node.look(DEADMAN_GRACE_S=f"{up + 1000:.0f}") == ""
    assert not node.powered_off
    assert "No sidecar has started in the" in node.look(DEADMAN_GRACE_S="0")
    assert node.powered_off


def test_without_the_pools_word_a_default_counts(node: Node) -> None:
    assert node.look(DEADMAN_STARTUP_S="1000000000") == ""
    assert "No sidecar has started" in node.look(DEADMAN_STARTUP_S="1", DEADMAN_GRACE_S="0")
    assert node.powered_off


def wait_until_zombie(pid: int) -> None:
    until = time.monotonic() + 10
    while ") Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < until
