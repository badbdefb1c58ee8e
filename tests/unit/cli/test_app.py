"""The command line itself: help, version, errors as sentences, commands loaded only when called."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from scaler_plugin import __version__
from scaler_plugin.cli.app import app
from scaler_plugin.cli.commands import COMMANDS
from scaler_plugin.cli.lazy_group import LazyCommand, LazyGroup
from scaler_plugin.errors import CloudRefused, ConfigError, ScalerError, StoreUnavailable

runner = CliRunner()


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command line with commands of the test's own: one that fails as told, one that passes its arguments on."""
    module = types.ModuleType("commands_of_the_test")
    errors: list[Exception] = []

    def fail() -> None:
        raise errors[0]

    def onward(context: typer.Context, slot: Annotated[int, typer.Option()] = 0) -> None:
        typer.echo(f"{slot} {context.args}")

    module.fail, module.onward = fail, onward  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class Group(LazyGroup):
        entries = (
            LazyCommand("fail", "commands_of_the_test:fail", "Fails."),
            LazyCommand("onward", "commands_of_the_test:onward", "Passes on.", passthrough=True),
            LazyCommand("broken", "no_such_module:app", "Cannot be imported."),
        )

    line = typer.Typer(cls=Group, add_completion=False, pretty_exceptions_enable=False)
    line.callback()(lambda: None)

    def invoke(*arguments: str, error: Exception | None = None) -> Any:
        errors[:] = [error] if error else []
        return runner.invoke(line, list(arguments))

    return invoke


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_command_with_its_summary(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == 0
    for entry in COMMANDS:
        assert entry.name in result.stdout
        assert entry.summary in result.stdout


def test_version_is_one_line() -> None:
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"scaler-sidecar {__version__}\n")


def test_help_imports_no_command() -> None:
    done = python(
        "import sys\nfrom scaler_plugin.cli.app import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "names = [m for m in sys.modules if m.startswith('scaler_plugin.')]\n"
        "print(*names, file=sys.stderr)\n"
    )
    allowed = {f"scaler_plugin.{name}" for name in ("cli", "cli.app", "cli.commands", "cli.lazy_group", "errors")}
    assert set(done.stderr.split()) == allowed


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_every_command_that_is_listed_exists(entry: LazyCommand) -> None:
    assert entry.load()


def test_an_unknown_command_is_wrong_usage() -> None:
    result = runner.invoke(app, ["frobnicate"])
    assert result.exit_code == 2
    assert "No such command" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(ScalerError("A."), 1), (ConfigError("B."), 2), (StoreUnavailable("C."), 3), (CloudRefused("D.", "X"), 5)],
)
def test_an_error_is_one_sentence_on_stderr_and_its_exit_code(line: Any, error: ScalerError, code: int) -> None:
    result = line("fail", error=error)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"{error}\n")


def test_a_bug_keeps_its_traceback(line: Any) -> None:
    result = line("fail", error=ZeroDivisionError())
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_command_that_cannot_be_imported_breaks_no_other(line: Any) -> None:
    assert line("--help").exit_code == 0
    assert isinstance(line("broken").exception, ModuleNotFoundError)


def test_unknown_options_are_passed_on_in_their_order(line: Any) -> None:
    result = line("onward", "--slot", "1", "--queue", "a", "b", "--docker", "--help", "-f", "--gpus", "0,1")
    assert result.stdout == "1 ['--queue', 'a', 'b', '--docker', '--help', '-f', '--gpus', '0,1']\n"


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scaler_plugin", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"scaler-sidecar {__version__}\n"
