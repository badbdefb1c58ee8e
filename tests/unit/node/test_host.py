"""The machine's shutdown: a command that fails is an error at once, and one that hangs keeps nobody from asking again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scaler_plugin.errors import HostError
from scaler_plugin.node import host
from scaler_plugin.node.host import LocalHost

NewHost = Callable[[str], LocalHost]


@pytest.fixture
def new_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewHost:
    monkeypatch.setattr(host, "_REFUSED_WITHIN_S", 0.5)

    def new(script: str) -> LocalHost:
        command = tmp_path / "power-off"
        command.write_text(f"#!/bin/sh\necho asked >>{tmp_path}/asked\n{script}\n")
        command.chmod(0o755)
        monkeypatch.setenv("SCALER_SHUTDOWN_COMMAND", str(command))
        return LocalHost()

    return new


def test_a_shutdown_that_is_refused_is_an_error_with_its_exit_code(new_host: NewHost) -> None:
    with pytest.raises(HostError, match="power-off failed with exit code 4"):
        new_host("exit 4").shut_down("idle")


def test_a_command_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALER_SHUTDOWN_COMMAND", "/nowhere/power-off")
    with pytest.raises(HostError, match="could not be started"):
        LocalHost().shut_down("idle")


@pytest.mark.parametrize("script", ["exit 0", "exec sleep 2"])
def test_a_shutdown_that_was_accepted_or_that_hangs_can_be_asked_for_again(
    new_host: NewHost, tmp_path: Path, script: str
) -> None:
    machine = new_host(script)
    for _ in range(2):
        machine.shut_down("idle")
    assert (tmp_path / "asked").read_text() == "asked\n" * 2


def test_a_command_that_the_shutdown_itself_ends_was_accepted(new_host: NewHost, tmp_path: Path) -> None:
    new_host("kill -TERM $$").shut_down("idle")
    assert (tmp_path / "asked").exists()


@pytest.mark.parametrize(("state", "refused"), [("stopping", False), ("running", True)])
def test_a_failure_on_a_machine_that_shuts_down_is_no_refusal(
    new_host: NewHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, refused: bool
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho {state}\nexit 1\n")
    systemctl.chmod(0o755)
    machine = new_host("exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if refused:
        with pytest.raises(HostError, match="exit code 1"):
            machine.shut_down("idle")
    else:
        machine.shut_down("idle")
