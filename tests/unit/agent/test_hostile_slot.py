"""What a task can do to its slot's files, and that the sidecar's side tells it and goes on: on real files, locks and processes."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaler_plugin.agent.agent_slot import AgentSlot
from scaler_plugin.agent.gate import Gate, slot_directory
from scaler_plugin.agent.processes import SLOT_MARKER, this_process
from scaler_plugin.agent.pull_watch import LONG_PULL_S
from scaler_plugin.agent.slot_record import boot_id, boottime, look_at_record
from scaler_plugin.agent.slots import NodeSlots
from scaler_plugin.core.model import Slot, SlotState
from scaler_plugin.errors import HostError

from ...waiting import until

WORKER = "c:p:t:i-1"
DEADLINE_S = 20.0

HOLD = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, getattr(fcntl, sys.argv[2]))
print("held", flush=True)
time.sleep(600)
"""


class SkippingClock:
    def __init__(self) -> None:
        self.skipped = 0.0

    def now(self) -> float:
        return time.time() + self.skipped

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped


@pytest.fixture(autouse=True)
def no_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that happen to live on this machine are none of a slot's."""
    monkeypatch.setattr("scaler_plugin.agent.processes.living_groups", lambda: ())


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


@pytest.fixture
def sidecar(tmp_path: Path, clock: SkippingClock) -> Iterator[NodeSlots]:
    slots = NodeSlots(tmp_path, 1, [WORKER], clock)
    yield slots
    slots.open()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return slot_directory(tmp_path, 0)


def record(**changes: object) -> str:
    agent = this_process()
    raw = {
        "state": "idle",
        "since": time.time(),
        "since_boottime": boottime(),
        "written_at": boottime(),
        "boot_id": boot_id(),
        "agent": {"pid": agent.pid, "started_ticks": agent.started_ticks},
        "worker_id": WORKER,
        "docker": False,
        "task_id": None,
        "queue": None,
    }
    return json.dumps({**raw, **changes})


def write(path: Path, text: str) -> None:
    """With a record's mode, as a task can that wants to be believed."""
    path.write_text(text)
    path.chmod(0o640)


def as_text(text: str) -> Callable[[Path], object]:
    return lambda path: write(path, text)


def moved_gate(path: Path) -> None:
    """The sidecar's file, in which the task may write, with a record in it."""
    gate = Gate(path.parent)
    assert gate.try_exclusive()
    gate.release()
    gate.path.write_text(record())
    gate.path.rename(path)


SPOILED: dict[str, Callable[[Path], object]] = {
    "a directory": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to endless zeros": lambda path: path.symlink_to("/dev/zero"),
    "a link to another file": lambda path: path.symlink_to("/etc/passwd"),
    "a pipe": os.mkfifo,
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "nothing in it": as_text(""),
    "endless brackets": as_text("[" * 200_000),
    "nested as deep as is read": as_text("[" * 60_000),
    "a list": as_text("[]"),
    "a number with too many digits": as_text('{"boot_id": ' + "9" * 60_000 + "}"),
    "more than a record": as_text(" " * 70_000 + record()),
    "a process id without end": as_text(record(agent={"pid": float("inf"), "started_ticks": 1})),
    "a negative process id": as_text(record(agent={"pid": -1, "started_ticks": 1})),
    "a process id that no kernel has": as_text(record(agent={"pid": 10**30, "started_ticks": 1})),
    "a process id that is a path": as_text(record(agent={"pid": "../1", "started_ticks": 1})),
    "a since that is no number": as_text(record(since=float("nan"))),
    "a since without end": as_text(record(since=float("-inf"))),
    "a beginning in the future": as_text(record(since_boottime=boottime() + 1e9)),
    "written in the future": as_text(record(written_at=1e300)),
    "a state that agents never write": as_text(record(state="down")),
    "a task id that is a list": as_text(record(state="busy", task_id=["t"])),
    "a task id that steers terminals": as_text(record(state="busy", task_id="\x1b[2J")),
    "a task id that cannot be stored": as_text(record(state="busy", task_id="\ud800")),
    "a queue that is a list": as_text(record(state="busy", task_id="t", queue=["q"])),
    "the gate with a record in it": moved_gate,
    "a task id that is a book": as_text(record(state="busy", task_id="t" * 50_000)),
}


def spoil(path: Path, how: Callable[[Path], object]) -> None:
    path.unlink(missing_ok=True)
    how(path)


def the_slot(sidecar: NodeSlots, clock: SkippingClock) -> Slot:
    """The slot after what takes a second look has been looked at twice."""
    sidecar.slots()
    clock.skipped += 2.0
    return sidecar.slots()[0]


def hold(path: Path, kind: str, marker: Path | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, **({SLOT_MARKER: str(marker)} if marker else {})}
    command = [sys.executable, "-c", HOLD, str(path), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def shows_its_marker(process: subprocess.Popen[str]) -> bool:
    return SLOT_MARKER.encode() in Path(f"/proc/{process.pid}/environ").read_bytes()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", SPOILED.values(), ids=SPOILED)
def test_whatever_lies_in_the_records_place_is_told_and_the_slot_is_neither_idle_nor_left_unlooked_at(
    sidecar: NodeSlots, directory: Path, clock: SkippingClock, how: Callable[[Path], object]
) -> None:
    spoil(directory / "state.json", how)
    slot = the_slot(sidecar, clock)
    assert slot.state is SlotState.DOWN
    assert str(directory / "state.json") in slot.problem
    task = subprocess.Popen(["sleep", "600"], env={**os.environ, SLOT_MARKER: str(directory)}, text=True)
    try:
        until(lambda: shows_its_marker(task), "its environment can be read, a moment after Popen says that it runs")
        assert sidecar.slots()[0].state is SlotState.BUSY
        assert sidecar.close()
        assert sidecar.slots()[0].state is SlotState.BUSY
    finally:
        end(task)
    assert the_slot(sidecar, clock).state is SlotState.DOWN


def test_a_sound_record_is_no_problem(sidecar: NodeSlots, directory: Path) -> None:
    write(directory / "state.json", record())
    slot = sidecar.slots()[0]
    assert (slot.state, slot.problem) == (SlotState.IDLE, "")


def test_a_slot_whose_agent_has_not_come_yet_is_no_problem(sidecar: NodeSlots) -> None:
    slot = sidecar.slots()[0]
    assert (slot.state, slot.problem) == (SlotState.STARTING, "")


def test_a_record_that_was_deleted_is_told(sidecar: NodeSlots, directory: Path, clock: SkippingClock) -> None:
    write(directory / "state.json", record())
    sidecar.slots()
    (directory / "state.json").unlink()
    slot = the_slot(sidecar, clock)
    assert slot.state is SlotState.DOWN
    assert "was deleted" in slot.problem


def test_a_file_under_a_lease_is_not_waited_for(sidecar: NodeSlots, directory: Path) -> None:
    """The kernel lets the opener of such a file wait for 45 s, each time."""
    path = directory / "state.json"
    write(path, record())
    lease = (
        "import fcntl, os, signal, sys, time\nsignal.signal(signal.SIGIO, signal.SIG_IGN)\nfd = os.open(sys.argv[1], os.O_RDWR)\n"
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\nprint('held', flush=True)\ntime.sleep(600)\n"
    )
    command = [sys.executable, "-c", lease, str(path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert str(path) in look_at_record(directory).trouble
        assert holder.poll() is None
    finally:
        end(holder)


SPOILED_GATES = {
    name: SPOILED[name]
    for name in (
        "a directory",
        "a link to itself",
        "a link to endless zeros",
        "a link to another file",
        "a pipe",
        "a socket",
    )
}


def fill(path: Path) -> None:
    path.mkdir()
    (path / "file").touch()


@pytest.mark.parametrize("how", [*SPOILED_GATES.values(), fill], ids=[*SPOILED_GATES, "a directory with a file"])
def test_a_gate_that_is_none_is_told_and_in_the_end_replaced(
    sidecar: NodeSlots, directory: Path, clock: SkippingClock, how: Callable[[Path], object]
) -> None:
    spoil(directory / "gate.lock", how)
    assert not sidecar.close()
    assert "gate.lock" in sidecar.slots()[0].problem
    clock.skipped += LONG_PULL_S + 1
    assert "gate.lock" in sidecar.slots()[0].problem
    assert sidecar.close()
    assert stat.S_ISREG((directory / "gate.lock").lstat().st_mode)
    assert stat.S_IMODE((directory / "gate.lock").stat().st_mode) == 0o660
    assert not Gate(directory).try_shared()
    assert sidecar.slots()[0].problem == ""
    sidecar.open()
    assert Gate(directory).try_shared()


def test_a_seal_that_is_a_pipe_is_not_waited_for(sidecar: NodeSlots, directory: Path) -> None:
    os.mkfifo(directory / "sealed")
    sidecar.seal()
    assert sidecar.sealed()


@pytest.mark.parametrize("kind", ["LOCK_SH", "LOCK_EX"])
def test_a_daemon_that_holds_the_lock_is_no_pull_is_told_and_does_not_keep_the_node(
    sidecar: NodeSlots, directory: Path, clock: SkippingClock, kind: str
) -> None:
    agent = AgentSlot(directory.parent.parent, 0, WORKER)
    assert agent.try_enter_pull()
    agent.finish_pull(None)
    daemon = hold(directory / "gate.lock", kind)
    try:
        assert sidecar.slots()[0].problem == "", "whoever holds it for a moment is nobody's concern"
        assert not sidecar.close()
        clock.skipped += LONG_PULL_S + 1
        slot = sidecar.slots()[0]
        assert slot.pulling_since is None
        assert f"Process {daemon.pid} holds the lock" in slot.problem
        assert sidecar.close()
        assert sidecar.slots()[0].state is SlotState.IDLE
        assert not agent.try_enter_pull()
        sidecar.open()
        assert agent.try_enter_pull()
    finally:
        end(daemon)


def test_a_stranger_beside_a_pull_does_not_let_the_gate_close_over_the_pull(
    sidecar: NodeSlots, directory: Path, clock: SkippingClock
) -> None:
    agent = AgentSlot(directory.parent.parent, 0, WORKER)
    assert agent.try_enter_pull()
    daemon = hold(directory / "gate.lock", "LOCK_SH")
    try:
        sidecar.slots()
        clock.skipped += LONG_PULL_S + 1
        assert sidecar.slots()[0].pulling_since is not None
        assert not sidecar.close()
        (directory / "gate.lock").unlink()
        assert not sidecar.close(), "the agent's lock counts although its file is gone"
        agent.finish_pull(None)
        assert sidecar.close()
    finally:
        end(daemon)


def test_a_lock_that_a_dead_agents_child_inherited_is_no_pull(
    sidecar: NodeSlots, directory: Path, clock: SkippingClock
) -> None:
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom scaler_plugin.agent.agent_slot import AgentSlot\n"
        f"slot = AgentSlot(Path(sys.argv[1]), 0, {WORKER!r})\nassert slot.try_enter_pull()\nchild = os.fork()\n"
        "if child:\n    print(child, flush=True)\n    os._exit(0)\ntime.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(directory.parent.parent)]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    child = int(agent.stdout.readline())
    try:
        agent.wait(DEADLINE_S)
        sidecar.slots()
        assert not sidecar.close()
        clock.skipped += LONG_PULL_S + 1
        slot = sidecar.slots()[0]
        assert slot.pulling_since is None
        assert "holds the lock" in slot.problem
        assert sidecar.close()
    finally:
        os.kill(child, signal.SIGKILL)
        agent.stdout.close()


def test_a_gate_that_cannot_be_replaced_stays_open_and_told(
    sidecar: NodeSlots, directory: Path, clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(directory / "gate.lock", Path.mkdir)

    def full(gate: Gate) -> None:
        raise HostError(f"{gate.path} cannot be used (No space left on device)")

    monkeypatch.setattr(Gate, "replace", full)
    sidecar.slots()
    clock.skipped += LONG_PULL_S + 1
    sidecar.slots()
    assert not sidecar.close()
    assert "No space left" in sidecar.slots()[0].problem


def test_a_gates_problem_that_is_over_is_told_no_longer_although_nobody_closes_the_gate(
    sidecar: NodeSlots, directory: Path, clock: SkippingClock
) -> None:
    spoil(directory / "gate.lock", Path.mkdir)
    assert not sidecar.close()
    (directory / "gate.lock").rmdir()
    agent = AgentSlot(directory.parent.parent, 0, WORKER)
    assert agent.try_enter_pull()
    agent.finish_pull(None)
    assert "gate.lock" in sidecar.slots()[0].problem, "the next try to close it may fail as this one did"
    clock.skipped += LONG_PULL_S
    assert sidecar.slots()[0].problem == ""
    clock.skipped += LONG_PULL_S + 1
    spoil(directory / "gate.lock", Path.mkdir)
    sidecar.slots()
    assert not sidecar.close(), "a new problem has its own patience"


def test_a_gate_that_fails_at_every_try_to_close_it_is_replaced_in_the_end(
    sidecar: NodeSlots, directory: Path, clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that only its owner may open, to a sidecar without root's rights; closed and looked at as a node that retires does."""
    spoil(directory / "gate.lock", Path.touch)

    def refused(gate: Gate) -> bool:
        raise HostError(f"{gate.path} cannot be used (Permission denied)")

    monkeypatch.setattr(Gate, "try_exclusive", refused)
    tries = 0
    while not sidecar.close():
        tries += 1
        assert tries < LONG_PULL_S + 5
        assert "Permission denied" in sidecar.slots()[0].problem
        clock.skipped += 1.0
        assert "Permission denied" in sidecar.slots()[0].problem
    assert tries >= LONG_PULL_S
    assert sidecar.slots()[0].problem == ""


def test_a_docker_that_hangs_is_asked_once_for_all_slots(
    tmp_path: Path, clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = 16
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec sleep 600\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("scaler_plugin.agent.processes._DOCKER_TIMEOUT_S", 0.5)
    sidecar = NodeSlots(tmp_path / "state", slots, [f"w:{slot}" for slot in range(slots)], clock)
    for slot in range(slots):
        write(slot_directory(tmp_path / "state", slot) / "state.json", record(docker=True))
    assert sidecar.close()
    assert {slot.state for slot in sidecar.slots()} == {SlotState.IDLE}
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    # A living container puts each of them in doubt, by the same one question.
    monkeypatch.setattr("scaler_plugin.agent.processes.living_groups", lambda: ("0" * 64,))
    assert {slot.state for slot in sidecar.slots()} == {SlotState.BUSY}
    assert len((tmp_path / "calls").read_text().splitlines()) == 2
    sidecar.open()
