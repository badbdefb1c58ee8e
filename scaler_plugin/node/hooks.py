"""Users' scripts as child processes of the sidecar: started, looked at, killed; never waited for.

A script gets a bare environment (path, home and what it is told) and none of the sidecar's secrets, no input, and a process group
of its own, so that killing it takes what it has started along.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

from scaler_plugin.sidecar.ports import HookOutcome, HookRun

#: So much of a script's output, its end, is kept for the event that tells how it went.
OUTPUT_TAIL_BYTES = 2_000
_PASSED_ON = ("PATH", "HOME", "LANG", "DOCKER_HOST")


class ShellHooks:
    """Implements ``sidecar.ports.Hooks`` with ``/bin/sh``."""

    def start(self, script: str, environment: Mapping[str, str]) -> HookRun:
        inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        try:
            output = tempfile.TemporaryFile()  # noqa: SIM115  (closed when the script has ended)
            process = subprocess.Popen(
                ["/bin/sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, **environment},
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return _NotStarted(str(error))
        return _ShellRun(process, output)


class _ShellRun:
    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self._process = process
        self._output = output

    def poll(self) -> HookOutcome | None:
        code = self._process.poll()
        if code is None:
            return None
        with self._output:
            size = self._output.seek(0, os.SEEK_END)
            self._output.seek(max(0, size - OUTPUT_TAIL_BYTES))
            return HookOutcome(code, self._output.read().decode(errors="replace"))

    def kill(self) -> None:
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the group's id is that of its first process
        self._process.wait()  # reaped: it was killed, so this returns at once
        self._output.close()


class _NotStarted:
    def __init__(self, why: str) -> None:
        self._why = why

    def poll(self) -> HookOutcome:
        return HookOutcome(None, self._why)

    def kill(self) -> None:
        return None
