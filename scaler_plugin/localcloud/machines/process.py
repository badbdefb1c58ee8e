"""A machine from outside: switch it on, press its button, cut its power, see what it does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from scaler_plugin.localcloud.machines.environment import machine_environment, sidecar_program
from scaler_plugin.localcloud.machines.folder import MachineFolder, MachineReport, Phase
from scaler_plugin.localcloud.machines.process_tree import kill_marked

#: A supervisor needs milliseconds to kill everything; a host under load many more.
POWER_OFF_PATIENCE_S = 15.0


class MachineProcess:
    """One machine. It ends with this process, however that ends: its supervisor then sees its standard input close."""

    def __init__(
        self,
        path: Path,
        caller: Mapping[str, str],
        cloud: Mapping[str, str],
        *,
        boot_delay_s: float = 0.0,
        standby: bool = False,
        restart_after_s: float | None = None,
        program: Sequence[str] = (),
        steady: bool = False,
        ground: Sequence[str] = (),
    ) -> None:
        """``program`` stands in for this installation's ``scaler-sidecar``; ``ground`` comes before the supervisor's command.

        On a ``steady`` machine the pause before a restart does not grow.
        """
        self.folder = MachineFolder(path)
        self.folder.make()
        command = [*ground, sys.executable, "-m", "scaler_plugin.localcloud.machines", str(path)]
        command += [f"--program={word}" for word in program or sidecar_program()]
        command += ["--boot-delay", str(boot_delay_s), *(["--standby"] if standby else [])]
        command += ["--steady"] if steady else []
        command += [] if restart_after_s is None else ["--restart-after", str(restart_after_s)]
        with self.folder.console.open("ab") as console:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=console,
                env=machine_environment(caller, self.folder, cloud),
                start_new_session=True,
            )

    @property
    def on(self) -> bool:
        return self._process.poll() is None

    @property
    def report(self) -> MachineReport:
        """What the machine last said of itself."""
        name = self.folder.path.name
        return self.folder.read_report() or MachineReport(name, Phase.PENDING, self._process.pid)

    def press_power_button(self) -> None:
        """Ask the system to shut down (ACPI), and return at once."""
        self._order(b"shutdown\n")

    def cut_power(self) -> None:
        """End everything on it now, and return at once; :meth:`wait_off` waits."""
        self._order(b"off\n")

    def wait_off(self, patience_s: float = POWER_OFF_PATIENCE_S) -> None:
        """Wait for its end, and make sure of it: afterwards no process of the machine lives."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.clear()

    def clear(self) -> None:
        """End what a killed supervisor may have left. Only for a machine that is off."""
        kill_marked(str(self.folder.path))
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def wait_for(self, unit: str, patience_s: float) -> int:
        """The process id of a unit, once it runs; 0 if it does not in time."""
        deadline = time.monotonic() + patience_s
        while self.on and time.monotonic() < deadline:
            if pid := self.report.units.get(unit):
                return pid
            time.sleep(0.05)
        return 0

    def _order(self, line: bytes) -> None:
        if self._process.stdin is not None:
            with suppress(OSError, ValueError):  # it has ended already
                self._process.stdin.write(line)
                self._process.stdin.flush()
