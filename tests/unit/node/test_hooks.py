"""Users' scripts as real child processes: nothing they do holds the sidecar up or leaves anything behind."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from scaler_plugin.node.hooks import OUTPUT_TAIL_CHARS, ShellHooks
from scaler_plugin.sidecar.ports import HookOutcome, HookRun


def ended(run: HookRun) -> HookOutcome:
    deadline = time.monotonic() + 20
    while (outcome := run.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return outcome


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_it_tells_how_a_script_ended_and_what_it_said() -> None:
    outcome = ended(ShellHooks().start("echo out; echo err >&2; exit 7", {}))
    assert outcome == HookOutcome(7, "out\nerr\n")


def test_of_much_output_only_the_end_is_kept() -> None:
    outcome = ended(ShellHooks().start("head -c 100000 /dev/zero | tr '\\0' x; echo end", {}))
    assert len(outcome.output) == OUTPUT_TAIL_CHARS
    assert outcome.output.endswith("xend\n")


def test_what_is_kept_begins_with_a_whole_line_so_that_no_secret_loses_its_name() -> None:
    line = "API_TOKEN=abcdefghijklmnopqrstuvwxyz"
    outcome = ended(ShellHooks().start(f"for i in $(seq 1000); do echo {line}; done", {}))
    assert OUTPUT_TAIL_CHARS - len(line) - 1 <= len(outcome.output) <= OUTPUT_TAIL_CHARS
    assert set(outcome.output.splitlines()) == {line}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_output_without_end_fills_no_disk_and_holds_no_script_up(tmp_path: Path) -> None:
    run = ShellHooks().start(
        f"readlink /proc/$$/fd/2 > {tmp_path}/where; head -c 500000000 /dev/zero; touch {tmp_path}/through; exec cat /dev/zero",
        {},
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "through").exists():  # it is not looked at meanwhile
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.kill()
    assert len(ended(run).output) <= OUTPUT_TAIL_CHARS
    assert (tmp_path / "where").read_text().startswith("pipe:")


def test_a_kill_does_not_wait_for_a_script_that_the_kernel_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing that a test may do makes a process deaf to SIGKILL, so the signal is swallowed instead.
    run = ShellHooks().start("sleep 1000", {})
    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", lambda *_: None)
        run.kill()
    assert run.poll() is None
    run.kill()
    assert ended(run).exit_code == -9


def test_scripts_that_were_killed_and_forgotten_leave_neither_a_zombie_nor_an_open_file() -> None:
    hooks, before = ShellHooks(), open_files()
    pids = []
    for _ in range(5):
        run = hooks.start("echo $$; exec sleep 1000", {})
        pids.append(run._process.pid)  # type: ignore[attr-defined]
        run.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) or open_files() > before:
        assert time.monotonic() < deadline
        ended(hooks.start("true", {}))


def test_a_script_sees_what_it_is_told_and_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARML_API_SECRET_KEY", "secret")
    outcome = ended(ShellHooks().start("env", {"SCALER_TASK_ID": "abc"}))
    assert "SCALER_TASK_ID=abc" in outcome.output.splitlines()
    assert "secret" not in outcome.output


def test_a_command_that_is_missing_is_an_exit_code_with_its_sentence() -> None:
    outcome = ended(ShellHooks().start("/no/such/command", {}))
    assert outcome.exit_code == 127
    assert "/no/such/command" in outcome.output


def test_a_script_that_cannot_be_started_has_ended() -> None:
    outcome = ShellHooks().start("true", {"A": "\0"}).poll()
    assert outcome is not None
    assert outcome.exit_code is None


def test_without_a_thread_for_its_output_a_script_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def begun(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    before = open_files()
    monkeypatch.setattr(threading.Thread, "start", no_more)
    monkeypatch.setattr(subprocess, "Popen", begun)
    outcome = ShellHooks().start("true", {}).poll()
    assert outcome == HookOutcome(None, "its output can't be read: can't start new thread")
    assert open_files() == before


def test_without_a_file_for_its_output_a_script_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", no_more)
    outcome = ShellHooks().start("true", {}).poll()
    assert outcome is not None
    assert outcome.exit_code is None


def test_it_reads_no_input_of_ours() -> None:
    assert ended(ShellHooks().start("cat; echo done", {})) == HookOutcome(0, "done\n")


def test_killing_a_script_that_hangs_takes_everything_it_started_along(tmp_path: Path) -> None:
    child = tmp_path / "child"
    run = ShellHooks().start(f"trap '' TERM; sleep 1000 & echo $! > {child}.new; mv {child}.new {child}; wait", {})
    deadline = time.monotonic() + 20
    while not child.exists():
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.01)
    pid = int(child.read_text())
    assert alive(pid)
    run.kill()
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_script_that_leaves_a_child_behind_is_over_when_it_ends_itself() -> None:
    run = ShellHooks().start("sleep 1000 & echo $!", {})
    outcome = ended(run)
    assert outcome.exit_code == 0
    os.kill(int(outcome.output), 9)
