"""Users' scripts as child processes of the sidecar: started, looked at, killed; never waited for.

A script gets a bare environment (path, home and what it is told) and none of the sidecar's secrets, no input, and a process group
of its own, so that killing it takes what it has started along. Its output goes through a pipe and fills no disk: a thread reads it
as fast as it comes and keeps the end. No script is started without that thread.

What a sandbox forbids the sidecar it forbids these children, too: where there is one, :mod:`scaler_plugin.node.hook_units` runs the
scripts.

Not guaranteed: that a script is dead when :meth:`~scaler_plugin.sidecar.ports.HookRun.kill` returns. One that waits for a file
system that does not answer is dead only when the kernel lets it go.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from scaler_plugin.core.console_output import last_lines
from scaler_plugin.sidecar.ports import HookOutcome, HookRun

#: So many characters of a script's output, its last lines, are kept for the event that tells how it went.
OUTPUT_TAIL_CHARS = 2_000
# Enough for as many characters, whatever they are in UTF-8, and to tell where the first whole line among them begins.
_HELD_BYTES = 4 * OUTPUT_TAIL_CHARS + 4
#: The pipe ends with its last writer. A script that leaves a child behind is over all the same, after so long.
LAST_WORDS_S = 0.5
_READ_BYTES = 65_536
_PASSED_ON = ("PATH", "HOME", "LANG", "DOCKER_HOST")


def passed_on() -> dict[str, str]:
    """What of this process's environment a script gets, too."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


class ShellHooks:
    """Implements ``sidecar.ports.Hooks`` with ``/bin/sh``."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, script: str, environment: Mapping[str, str]) -> HookRun:
        # Whoever killed a script need not look at it again: what has died since is reaped here.
        self._started = [process for process in self._started if process.poll() is None]
        try:
            reading, writing = os.pipe()
        except OSError as error:  # no more open files
            return NotStarted(str(error))
        try:
            output = _Output(reading)
        except RuntimeError as error:  # no more threads; the script has not begun
            os.close(reading)
            os.close(writing)
            return NotStarted(f"its output can't be read: {error}")
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.STDOUT,
                env={**passed_on(), **environment},
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return NotStarted(str(error))
        finally:
            os.close(writing)  # the reader ends with the last writer, at once where no script has begun
        self._started.append(process)
        return _ShellRun(process, output)


class OutputTail:
    """The end of an output that is heard in parts, in whole lines: a secret is known by the name that stands before it."""

    def __init__(self) -> None:
        self._held = b""

    def hear(self, part: bytes) -> None:
        self._held = (self._held + part)[-_HELD_BYTES:]

    def __str__(self) -> str:
        return last_lines(self._held.decode(errors="replace"), OUTPUT_TAIL_CHARS)


class _Output:
    """The end of what comes out of a pipe, read to its end by a thread: a writer never has to wait."""

    def __init__(self, reading: int) -> None:
        self.tail = OutputTail()
        self._reader = threading.Thread(target=self._read, args=(reading,), name="hook-output", daemon=True)
        self._reader.start()

    @property
    def complete(self) -> bool:
        return not self._reader.is_alive()

    def _read(self, reading: int) -> None:
        try:
            while part := os.read(reading, _READ_BYTES):
                self.tail.hear(part)
        finally:
            os.close(reading)


class _ShellRun:
    def __init__(self, process: subprocess.Popen[bytes], output: _Output) -> None:
        self._process = process
        self._output = output
        self._ended_at: float | None = None

    def poll(self) -> HookOutcome | None:
        code = self._process.poll()
        if code is None:
            return None
        if self._ended_at is None:
            self._ended_at = time.monotonic()
        if not self._output.complete and time.monotonic() - self._ended_at < LAST_WORDS_S:
            return None
        return HookOutcome(code, str(self._output.tail))

    def kill(self) -> None:
        if self._process.poll() is None:  # else its number may be another process's by now
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)  # the group's id is that of its first process


class NotStarted:
    """A script that could not be started, and why: its end."""

    def __init__(self, why: str) -> None:
        self._why = why

    def poll(self) -> HookOutcome:
        return HookOutcome(None, self._why)

    def kill(self) -> None:
        return None
