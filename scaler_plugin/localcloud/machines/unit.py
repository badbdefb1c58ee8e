"""One service of a machine as systemd would keep it: started, restarted when it ends, stopped in order."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

#: Pauses between restarts grow to this: a unit that can't work (foreign user-data) shall not eat the host's CPU.
LONGEST_PAUSE_S = 15.0
#: A unit that ran for so long was well: the next pause is the first again.
WELL_AFTER_S = 20.0


@dataclass
class Unit:
    """``restart_after_s`` is the pause before a restart, which doubles up to ``longest_pause_s``.

    With ``until_success`` a good end is the last.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    restart_after_s: float
    longest_pause_s: float = LONGEST_PAUSE_S
    until_success: bool = False
    pid: int | None = None
    start_at: float | None = 0.0  # on the monotonic clock; None: not to be started
    done: bool = False
    _pause_s: float = field(default=0.0, init=False)
    _started_at: float = field(default=0.0, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self, console: Path, folder: Path, now: float) -> None:
        """Start it. The process is reaped by the supervisor, which reaps all."""
        with console.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=dict(self.environment),
                start_new_session=True,
            )
        self.pid, self.start_at, self._started_at = self._process.pid, None, now

    def ended(self, code: int, now: float, restart: bool) -> None:
        """Its process is gone and reaped."""
        if self._process is not None:
            self._process.returncode = code  # or Popen would one day wait for another process of the same id
        self._process, self.pid = None, None
        if self.until_success and code == 0:
            self.done = True
        elif restart:
            well = now - self._started_at >= WELL_AFTER_S
            longer = min(2 * self._pause_s, max(self.longest_pause_s, self.restart_after_s))
            self._pause_s = self.restart_after_s if well else max(longer, self.restart_after_s)
            self.start_at = now + self._pause_s

    def signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
