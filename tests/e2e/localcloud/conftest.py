"""A temporary folder of its own for what is started, and the proof that nothing is left of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ...waiting import STARTING_S, until


def processes_of(folder: Path) -> list[str]:
    """Command lines of the living processes that name this folder in their arguments or environment."""
    found = []
    wanted = os.fsencode(str(folder))
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                known = command + Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if wanted in known:
                found.append(f"{name}: {command.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, since Unix sockets lie in it."""
    path = Path(tempfile.mkdtemp(prefix="lc-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def left_of() -> Callable[[Path], list[str]]:
    return processes_of


@pytest.fixture
def command(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``scaler-sidecar`` as a user does, with its temporary files in ``folder``."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "scaler_plugin", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def wait() -> Callable[..., None]:
    def wait_until(condition: Callable[[], object]) -> None:
        until(condition, patience_s=STARTING_S)

    return wait_until
