"""Users' scripts as units of their own: how each ended comes back, and a killed one is over only when nothing of it lives."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scaler_plugin.node import hook_units
from scaler_plugin.node.hook_units import SANDBOXED, UnitHooks, hooks_for_sidecar, own_service, start_command
from scaler_plugin.node.hooks import ShellHooks
from scaler_plugin.sidecar.ports import HookOutcome, HookRun

from .hook_cases import CASES, NASTY, Case
from .systemd_double import SystemdDouble


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SystemdDouble:
    double = SystemdDouble(tmp_path)
    monkeypatch.setenv("PATH", f"{double.programs}:{os.environ['PATH']}")
    return double


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    return tmp_path / "state" / "scripts"


@pytest.fixture
def hooks(systemd: SystemdDouble, scripts: Path) -> UnitHooks:
    return UnitHooks(scripts, systemd.groups)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(run: HookRun) -> HookOutcome:
    wait_for(run.poll)
    outcome = run.poll()
    assert outcome is not None
    return outcome


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_units_end_comes_back_as_a_childs_would(hooks: UnitHooks, scripts: Path, case: Case) -> None:
    assert ended(hooks.start(case.script, {"SCALER_NASTY": NASTY})) == HookOutcome(case.exit_code, case.output)
    assert list(scripts.iterdir()) == []


def test_what_a_script_leaves_behind_is_dead_when_it_is_over(hooks: UnitHooks) -> None:
    outcome = ended(hooks.start("sleep 1000 & echo $!", {}))
    assert not alive(int(outcome.output))


def test_a_run_that_is_killed_is_over_only_when_nothing_of_it_lives(
    hooks: UnitHooks, systemd: SystemdDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_units, "_STOP_AGAIN_S", 0.1)
    run = hooks.start(f"trap '' TERM; echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; sleep 1000", {})
    wait_for((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    stops: list[list[str]] = []
    real = subprocess.run

    def noted(command: list[str], **options: object) -> object:
        stops.append(command)
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", noted)
    systemd.hold_on_to_processes(True)
    run.kill()
    wait_for(lambda: len(stops) > 1)
    assert run.poll() is None
    assert alive(pid)
    systemd.hold_on_to_processes(False)
    assert ended(run).exit_code == -9
    assert not alive(pid)
    assert systemd.units == []


def test_a_script_that_is_killed_before_it_began_and_forgotten_ends_all_the_same(
    hooks: UnitHooks, systemd: SystemdDouble, scripts: Path
) -> None:
    before = open_files()
    for _ in range(3):
        hooks.start("sleep 1000", {}).kill()
    wait_for(lambda: not list(scripts.iterdir()) and not systemd.units and open_files() <= before)


def test_a_script_that_systemd_refuses_was_never_started(
    hooks: UnitHooks, systemd: SystemdDouble, scripts: Path
) -> None:
    systemd.refuse("Access denied")
    outcome = ended(hooks.start("true", {}))
    assert outcome.exit_code is None
    assert "Access denied" in outcome.output
    assert list(scripts.iterdir()) == []


def test_without_systemd_run_a_script_was_never_started(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = ended(UnitHooks(scripts, tmp_path).start("true", {}))
    assert outcome.exit_code is None
    assert "systemd-run" in outcome.output


def test_a_unit_whose_end_systemd_does_not_tell_has_failed(hooks: UnitHooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_units, "_WORD_LATE_S", 0.5)
    monkeypatch.setattr(hook_units, "_told", lambda _: None)
    assert ended(hooks.start("echo said", {})) == HookOutcome(-9, "said\n")


def test_without_a_thread_nothing_is_started_and_nothing_stays_open(
    hooks: UnitHooks, systemd: SystemdDouble, scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()

    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        outcome = hooks.start("true", {}).poll()
    assert outcome == HookOutcome(None, "can't start new thread")
    assert open_files() == before
    assert list(scripts.iterdir()) == []
    assert systemd.units == []


def test_neither_a_null_byte_nor_a_full_disk_is_raised(
    hooks: UnitHooks, scripts: Path, systemd: SystemdDouble, tmp_path: Path
) -> None:
    for run in (hooks.start("true", {"A": "\0"}), hooks.start("true\0", {})):
        outcome = run.poll()
        assert outcome is not None
        assert outcome.exit_code is None
    (tmp_path / "file").touch()
    outcome = UnitHooks(tmp_path / "file" / "scripts", systemd.groups).start("true", {}).poll()
    assert outcome is not None
    assert outcome.exit_code is None


def test_a_script_is_in_a_folder_of_roots_alone_and_in_no_argument(
    hooks: UnitHooks, scripts: Path, tmp_path: Path
) -> None:
    run = hooks.start(
        f"tr '\\0' ' ' </proc/$$/cmdline >{tmp_path}/arguments; touch {tmp_path}/there; sleep 1000", {"A": "a-secret"}
    )
    wait_for((tmp_path / "there").exists)
    (folder,) = scripts.iterdir()
    assert [oct(path.stat().st_mode & 0o777) for path in (scripts, folder)] == ["0o700", "0o700"]
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}
    arguments = (tmp_path / "arguments").read_text() + shlex.join(start_command("u", folder))
    assert "a-secret" not in arguments
    assert "sleep" not in arguments
    run.kill()
    ended(run)


def test_a_script_runs_once_even_if_systemd_starts_its_unit_again(
    hooks: UnitHooks, scripts: Path, tmp_path: Path
) -> None:
    run = hooks.start(f"echo ran >>{tmp_path}/runs; sleep 1000", {})
    wait_for((tmp_path / "runs").exists)
    (folder,) = scripts.iterdir()
    assert not (folder / "run").exists()
    run.kill()
    ended(run)


def test_folders_of_a_sidecar_that_died_are_removed_and_those_of_this_one_stay(
    systemd: SystemdDouble, scripts: Path
) -> None:
    scripts.mkdir(parents=True)
    (scripts / "1-left").mkdir()
    (scripts / "1-left" / "script").touch()
    own = scripts / f"{os.getpid()}-mine"
    own.mkdir()
    UnitHooks(scripts, systemd.groups)
    assert list(scripts.iterdir()) == [own]


def test_only_the_sandboxed_service_of_a_machine_with_systemd_makes_units(
    systemd: SystemdDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(hooks_for_sidecar(tmp_path), ShellHooks)
    monkeypatch.setattr(hook_units, "own_service", lambda: SANDBOXED)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert isinstance(hooks_for_sidecar(tmp_path), UnitHooks)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert isinstance(hooks_for_sidecar(tmp_path), ShellHooks)


@pytest.mark.parametrize(
    ("groups", "service"),
    [
        ("0::/system.slice/scaler-sidecar.service\n", "scaler-sidecar.service"),
        ("9:name=systemd:/x\n0::/system.slice/scaler-sidecar.service\n", "scaler-sidecar.service"),
        ("9:name=systemd:/system.slice/scaler-sidecar.service\n0::/\n", None),  # an old system's two hierarchies
        ("0::/user.slice/user-0.slice/session-1.scope\n", None),
        ("", None),
    ],
)
def test_the_own_service_is_the_control_groups_last_name(tmp_path: Path, groups: str, service: str | None) -> None:
    (tmp_path / "cgroup").write_text(groups)
    assert own_service(tmp_path / "cgroup") == service
    assert own_service(tmp_path / "missing") is None
