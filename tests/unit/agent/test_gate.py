"""The lock and the record on their own: descriptors, modes, replaced files, crashes of the holder."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scaler_plugin.agent.gate import Gate, slot_directory
from scaler_plugin.agent.processes import ProcessKey, lives, this_process
from scaler_plugin.agent.slot_record import SlotRecord, boottime, read_record, write_record
from scaler_plugin.core.model import QueueName, SlotState, TaskId
from scaler_plugin.errors import HostError

HOLD = """
import sys, time
from pathlib import Path
from scaler_plugin.agent.gate import Gate
gate = Gate(Path(sys.argv[1]))
assert getattr(gate, sys.argv[2])()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return slot_directory(tmp_path / "state", 0)


def holder(directory: Path, kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory), kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize(("held", "wanted"), [("try_shared", "try_exclusive"), ("try_exclusive", "try_shared")])
def test_the_kernel_gives_back_the_lock_of_a_killed_process(directory: Path, held: str, wanted: str) -> None:
    process = holder(directory, held)
    gate = Gate(directory)
    try:
        assert not getattr(gate, wanted)()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert getattr(gate, wanted)()


def test_a_child_that_outlives_the_holder_does_not_keep_the_lock(directory: Path) -> None:
    agent = Gate(directory)
    assert agent.try_shared()
    # close_fds=False: only the descriptor's own close-on-exec flag stands between the child and the lock.
    child = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        lock = os.stat(directory / "gate.lock")
        inherited = [os.stat(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")]
        assert not any(os.path.samestat(lock, file) for file in inherited)
        agent.release()
        assert Gate(directory).try_exclusive()
    finally:
        child.kill()
        child.wait()


def test_releasing_takes_the_lock_also_from_a_forked_child(directory: Path) -> None:
    agent = Gate(directory)
    assert agent.try_shared()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # shares the open file until it execs or ends
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    try:
        agent.release()
        assert Gate(directory).try_exclusive()
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_two_agents_may_hold_the_gate_shared(directory: Path) -> None:
    assert Gate(directory).try_shared()
    assert Gate(directory).try_shared()


def test_a_lock_on_a_deleted_file_is_not_taken_for_the_gate(directory: Path) -> None:
    first = Gate(directory)
    assert first.try_exclusive()
    (directory / "gate.lock").unlink()
    second = Gate(directory)
    assert second.try_exclusive()
    assert not Gate(directory).try_shared()


def test_modes_let_the_group_in_and_nobody_else(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        directory = slot_directory(tmp_path / "state", 0)
        assert Gate(directory).try_shared()
        write_record(directory, a_record())
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.iterdir())}
    assert modes == {"0": 0o2770, "gate.lock": 0o660, "state.json": 0o640, "state.spare": 0o640}


def test_a_state_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"slot's state in .* cannot be used .*SCALER_STATE_DIR"):
        slot_directory(tmp_path / "file", 0)


def a_record() -> SlotRecord:
    boot = boottime()
    return SlotRecord(
        SlotState.BUSY, time.time(), boot, boot, this_process(), "c:p:t:i", True, TaskId("t1"), QueueName("q")
    )


def test_a_record_reads_as_it_was_written(directory: Path) -> None:
    record = a_record()
    write_record(directory, record)
    assert read_record(directory) == record
    write_record(directory, replace(record, state=SlotState.IDLE, task_id=None, queue=None))
    written = read_record(directory)
    assert written is not None
    assert written.task_id is None
    assert sorted(path.name for path in directory.iterdir()) == ["state.json", "state.spare"], (
        "no scratch file may stay"
    )


def test_a_full_disk_still_takes_records(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing new can be created; the spare file can be written over."""
    write_record(directory, a_record())
    really_open = os.open

    def full(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(28, "No space left on device")
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", full)
    for task in ("t2", "t3", "t4"):
        record = replace(a_record(), task_id=TaskId(task))
        write_record(directory, record)
        assert read_record(directory) == record
    (directory / "state.spare").unlink()
    with pytest.raises(OSError, match="No space left"):
        write_record(directory, a_record())
    written = read_record(directory)
    assert written is not None
    assert written.task_id == "t4", "the old record stands"


def test_a_record_of_an_earlier_boot_counts_as_none(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(directory, a_record())
    monkeypatch.setattr("scaler_plugin.agent.slot_record.boot_id", lambda: "another-boot")
    assert read_record(directory) is None


@pytest.mark.parametrize(
    ("queue", "read"),
    [
        ("大\u3000学", "大\u3000学"),
        ("a\u00a0b", "a\u00a0b"),
        ("a\u200bb", "a b"),
        ("a\x1b[2Jb", "a [2Jb"),
        ("a\ud800b", "a b"),
        ("q" * 3000, "q" * 1024),
    ],
    ids=["wide space", "no-break space", "zero width", "terminal", "half a pair", "long"],
)
def test_a_record_is_read_whatever_its_queue_is_called(directory: Path, queue: str, read: str) -> None:
    record = replace(a_record(), queue=QueueName(queue))
    write_record(directory, record)
    assert read_record(directory) == replace(record, queue=QueueName(read))


def test_a_record_over_the_spare_has_a_records_mode(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(directory, a_record())
    (directory / "state.spare").chmod(0o600)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scaler_plugin.agent.slot_record._write_new", full)
    write_record(directory, a_record())
    assert stat.S_IMODE((directory / "state.json").stat().st_mode) == 0o640
    assert read_record(directory) is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "idle"}', "null"])
def test_an_unreadable_record_counts_as_none(directory: Path, text: str) -> None:
    (directory / "state.json").write_text(text)
    (directory / "state.json").chmod(0o640)
    assert read_record(directory) is None


def test_a_process_id_alone_is_not_an_identity() -> None:
    assert lives(this_process())
    assert not lives(ProcessKey(os.getpid(), this_process().started_ticks + 1))
