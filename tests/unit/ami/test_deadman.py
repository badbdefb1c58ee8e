"""The dead-man's script on real processes and locks, with ``systemctl`` and ``sleep`` replaced by recorders."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler_plugin.agent.gate import Gate
from scaler_plugin.agent.processes import ProcessKey, process_state, this_process
from scaler_plugin.agent.slot_record import SlotRecord, boottime, write_record
from scaler_plugin.core.model import QueueName, SlotState, TaskId
from scaler_plugin.node.heartbeat import beat

#: The script looks at all processes of the machine, so no two of these tests run at once.
pytestmark = pytest.mark.xdist_group("deadman")

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
        self.instance = f"i-{os.urandom(8).hex()}"
        (self.state_dir / "node.json").write_text(json.dumps({"identity": {"instance_id": self.instance}}))
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

    def on_power_off(self, command: str) -> None:
        """Run this in the power-off's place."""
        recorder = self._recorders / "systemctl"
        recorder.write_text(f'#!/bin/sh\necho systemctl "$@" >>{self._done}\n[ "$1" != poweroff ] || {command}\n')

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
        """What it did, without what it asked."""
        return [line for line in self._done.read_text().splitlines() if not line.startswith("systemctl show ")]


class Running:
    """Processes that live as long as the test. Each says when it is ready."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[bytes]] = []

    def start(self, code: str, *words: str, **environment: str) -> int:
        command = [sys.executable, "-c", f"{code}\nprint('ready', flush=True)\nimport time\ntime.sleep(600)", *words]
        process = subprocess.Popen(command, env={"PATH": os.environ["PATH"], **environment}, stdout=subprocess.PIPE)
        self._all.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process.pid

    def hold(self, lock: Path) -> ProcessKey:
        """Hold the lock shared, as a pull does."""
        pid = self.start(f"import fcntl; f = open({str(lock)!r}); fcntl.flock(f, fcntl.LOCK_SH)")
        state = process_state(pid)
        assert state
        return state[1]

    def lease(self, file: Path) -> int:
        """Whoever opens the file waits for the holder, who does not care, for up to 45 s."""
        return self.start(
            "import fcntl, os, signal; signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
            f"fd = os.open({str(file)!r}, os.O_RDWR); fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)"
        )

    def end(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.end()


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


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "clearml_agent", "execute", "--disable-monitoring", "--id", "t1"),
        ("execute", "--id", "t1"),
        ("--id", "t1", "execute"),
        (
            "run",
            "-t",
            "python:3.12",
            "bash",
            "-c",
            "pip install clearml-agent; python -m clearml_agent execute --id t1",
        ),
    ],
)
def test_a_task_of_a_stock_agent_keeps_the_machine_on(node: Node, running: Running, words: tuple[str, ...]) -> None:
    node.sidecar_silent_for(5)
    pid = running.start("", *words, CLEARML_WORKER_ID=f"c:p:c5.large:{node.instance}:0")
    assert f"process {pid} carries out a task: the machine stays on" in node.look()
    assert not node.powered_off
    running.end()
    node.look()
    assert node.powered_off


@pytest.mark.parametrize(
    "words", [("daemon", "--id", "t1"), ("execute", "--id"), ("execute", "--id=t1"), ("executed", "--id", "t1")]
)
def test_a_command_that_carries_out_no_task_is_no_work(node: Node, running: Running, words: tuple[str, ...]) -> None:
    node.sidecar_silent_for(5)
    running.start("", *words, CLEARML_WORKER_ID=f"c:p:c5.large:{node.instance}:0")
    node.look()
    assert node.powered_off


def test_a_task_whose_agent_is_not_known_keeps_the_machine_on(node: Node, running: Running) -> None:
    node.sidecar_silent_for(5)
    pid = running.start("", "execute", "--id", "t1")
    assert f"process {pid} carries out a task: the machine stays on" in node.look()


def test_a_task_of_another_machines_agent_is_none_of_this_one(node: Node, running: Running) -> None:
    """As a process of a container, or on a machine that plays several nodes."""
    node.sidecar_silent_for(5)
    running.start("", "execute", "--id", "t1", CLEARML_WORKER_ID="c:p:c5.large:i-another")
    node.look()
    assert node.powered_off


def test_what_an_ended_task_left_behind_is_nobodys_work_whatever_its_command_line_says(
    node: Node, running: Running
) -> None:
    node.sidecar_silent_for(5)
    running.start("", "execute", "--id", "t1", SCALER_SLOT_DIR=str(node.slot.resolve()))
    node.record(SlotState.IDLE, this_process(), boottime() + 1)
    node.look()
    assert node.powered_off


@pytest.mark.parametrize("written_at", ["99999999999", "1e99", "Infinity", '"soon"', "null"])
def test_a_record_from_the_future_or_from_no_time_hides_nothing(
    node: Node, task: subprocess.Popen[bytes], written_at: str
) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.IDLE, this_process(), boottime() - 5)
    state = node.slot / "state.json"
    state.write_text(re.sub(r'"written_at": [0-9.]+', f'"written_at": {written_at}', state.read_text()))
    assert f"process {task.pid} of slot 0 lives" in node.look()
    assert not node.powered_off


def test_a_process_id_that_is_a_path_names_nobody(node: Node) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.BUSY, this_process(), boottime())
    state = node.slot / "state.json"
    state.write_text(state.read_text().replace(f'"pid": {os.getpid()}', f'"pid": "../proc/{os.getpid()}"'))
    node.look()
    assert node.powered_off


def test_what_a_record_says_reaches_the_console_as_plain_text(node: Node) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.BUSY, this_process(), boottime())
    state = node.slot / "state.json"
    state.write_text(state.read_text().replace('"t1"', '"t\x1b[2J\\\\033[2J"'))
    said = node.look()
    assert "works on task t[2J" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("name", ["state.json", "gate.lock"])
def test_a_lease_on_a_slots_file_is_not_waited_for(node: Node, running: Running, name: str) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.IDLE, this_process(), boottime())
    holder = running.lease(node.slot / name)
    node.look()
    assert node.powered_off
    leases = [line.split() for line in Path("/proc/locks").read_text().splitlines() if " LEASE " in line]
    assert str(holder) in [lease[4] for lease in leases], "the kernel took it away: the script waited for that"


@pytest.mark.parametrize("name", ["state.json", "gate.lock"])
def test_a_task_counts_whatever_lies_in_the_place_of_its_slots_files(
    node: Node, task: subprocess.Popen[bytes], name: str
) -> None:
    node.sidecar_silent_for(5)
    (node.slot / name).unlink(missing_ok=True)
    os.mkfifo(node.slot / name)
    assert f"process {task.pid} of slot 0 lives" in node.look()
    assert not node.powered_off
    assert not (node.slot / "sealed").exists()


def test_the_lock_in_the_hand_of_another_than_the_agent_does_not_keep_the_machine_on(
    node: Node, running: Running
) -> None:
    node.sidecar_silent_for(5)
    node.record(SlotState.IDLE, this_process(), boottime())
    running.hold(node.gate)
    node.look()
    assert node.powered_off


def test_a_pull_through_a_gate_that_was_moved_away_keeps_the_machine_on(node: Node, running: Running) -> None:
    node.sidecar_silent_for(5)
    agent = running.hold(node.gate)
    node.record(SlotState.IDLE, agent, boottime())
    node.gate.rename(node.slot / "former.lock")
    os.mkfifo(node.gate)
    assert "an agent holds" in node.look()
    assert not node.powered_off
    assert not (node.slot / "sealed").exists()
    running.end()
    node.look()
    assert node.powered_off


@pytest.mark.parametrize("agent_known", [True, False])
@pytest.mark.parametrize("moved", [True, False])
def test_a_pull_through_a_gate_in_whose_place_lies_another_keeps_the_machine_on(
    node: Node, running: Running, moved: bool, agent_known: bool
) -> None:
    node.sidecar_silent_for(5)
    agent = running.hold(node.gate)
    if agent_known:
        node.record(SlotState.IDLE, agent, boottime())
    if moved:
        node.gate.rename(node.slot / "former.lock")
    else:
        node.gate.unlink()
    node.gate.touch()
    assert "an agent pulls on slot 0: not now" in node.look()
    assert not node.powered_off
    running.end()
    node.look()
    assert node.powered_off


def test_while_a_gate_that_cannot_be_locked_is_looked_past_no_agent_begins_to_pull(
    node: Node, running: Running
) -> None:
    """The power-off is where it looks: with everything closed."""
    node.sidecar_silent_for(5)
    node.record(SlotState.IDLE, this_process(), boottime())
    running.hold(node.gate)
    node.on_power_off(f"ls {node.slot}")
    assert "sealed" in node.look().split()
    assert not Gate(node.slot).sealed, "the machine did not go: its agents may pull again"


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
