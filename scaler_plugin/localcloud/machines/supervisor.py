"""One machine from power-on to power-off: the program behind ``python -m scaler_plugin.localcloud.machines``.

Its standard input is the power supply: a line ``shutdown`` is the ACPI button, ``off`` or the end of the stream cuts the
power. Guarantees: when this program ends in any way but SIGKILL, no process that the machine ever started lives.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from scaler_plugin.localcloud.imds import ImdsServer
from scaler_plugin.localcloud.machines.folder import SIDECAR, MachineFolder, MachineReport, Phase
from scaler_plugin.localcloud.machines.process_tree import become_subreaper, kill_descendants
from scaler_plugin.localcloud.machines.unit import LONGEST_PAUSE_S, Unit

#: systemd's default is 90 s; agents and sidecars need one or two, and whoever terminates an instance waits for it.
STOP_GRACE_S = 8.0
#: ``RestartSec`` of the image's units.
RESTART_AFTER_S = 1.0


class _SystemShutdown(Exception):
    """Somebody pressed the button, on the machine or from outside."""


class _PowerCut(Exception):
    """The machine is to end at once."""


class Supervisor:
    """``program`` is the command line of ``scaler-sidecar``. A ``standby`` machine only runs ``run --standby``."""

    def __init__(
        self,
        folder: MachineFolder,
        program: tuple[str, ...],
        boot_delay_s: float = 0.0,
        standby: bool = False,
        restart_after_s: float = RESTART_AFTER_S,
        steady: bool = False,
    ) -> None:
        self._folder = folder
        self._program = program
        self._boot_delay_s = boot_delay_s
        self._standby = standby
        self._restart_after_s = restart_after_s
        self._longest_pause_s = restart_after_s if steady else LONGEST_PAUSE_S
        self._environment = dict(os.environ)
        self._units: list[Unit] = []
        self._restarting = True
        self._phase = Phase.PENDING
        self._imds = ImdsServer(folder.facts)
        self._imds_url = ""
        self._selector = selectors.DefaultSelector()

    def live(self) -> None:
        """Run the machine's whole life."""
        become_subreaper()
        self._listen()
        try:
            self._report()
            self._wait_until(lambda: False, self._boot_delay_s)
            self._power_on()
            self._wait_until(lambda: False, float("inf"))
        except _SystemShutdown:
            with suppress(_PowerCut):
                self._shut_down()
        except _PowerCut:
            pass
        finally:
            kill_descendants(os.getpid())
            self._imds.stop()

    def _listen(self) -> None:
        self._folder.power_button.unlink(missing_ok=True)  # of the machine's life before this one
        os.mkfifo(self._folder.power_button, 0o600)
        # Open for both, so that it never reports an end of file.
        self._button = os.open(self._folder.power_button, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        children, wake = socket.socketpair()
        children.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The layer above decides when a machine ends; Ctrl-C in a terminal goes to that.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._kept = (children, wake)
        self._selector.register(self._button, selectors.EVENT_READ, self._button_pressed)
        self._selector.register(children, selectors.EVENT_READ, lambda: children.recv(4096))
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._ordered)

    def _power_on(self) -> None:
        if self._standby:
            self._add_unit(SIDECAR, "run", "--standby")
        else:
            self._imds_url = self._imds.start()
            self._environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = self._imds_url
            self._add_unit("boot", "boot", "--gate", until_success=True)
        self._enter(Phase.RUNNING)

    def _add_unit(self, name: str, *arguments: str, until_success: bool = False) -> None:
        command = (*self._program, *arguments)
        pauses = self._restart_after_s, self._longest_pause_s
        self._units.append(Unit(name, command, self._environment, *pauses, until_success))

    def _start_services(self) -> None:
        """What the units that wait for the boot unit do: one sidecar, one agent a slot."""
        conf = self._folder.state / "clearml.conf"
        if conf.exists():
            self._environment["CLEARML_CONFIG_FILE"] = str(conf)
        self._add_unit(SIDECAR, "run")
        for slot in range(json.loads((self._folder.state / "node.json").read_text())["slots"]):
            self._add_unit(f"agent-{slot}", "agent", "--slot", str(slot))

    def _shut_down(self) -> None:
        """As systemd does it: agents first, as they depend on the sidecar, then that, then whatever is left.

        Agents by SIGKILL, as their unit says: SIGTERM would make them mark a running task as aborted by a person, and nobody would
        put it back.
        """
        self._restarting = False
        self._enter(Phase.SHUTTING_DOWN)
        for unit in self._units:
            unit.start_at = None
        services = [unit for unit in self._units if unit.name != SIDECAR]
        sidecars = [unit for unit in self._units if unit.name == SIDECAR]
        for stopping, how in ((services, signal.SIGKILL), (sidecars, signal.SIGTERM)):
            for unit in stopping:
                unit.signal(how)
            self._wait_until(partial(_all_ended, stopping), STOP_GRACE_S)
        kill_descendants(os.getpid())
        self._enter(Phase.ENDED)

    def _wait_until(self, condition: Callable[[], bool], patience_s: float) -> None:
        """Keep the machine going until the condition holds or time is up."""
        deadline = time.monotonic() + patience_s
        while not condition() and (now := time.monotonic()) < deadline:
            due = [unit.start_at for unit in self._units if unit.start_at is not None]
            wake_at = min([deadline, *due])
            timeout = None if wake_at == float("inf") else max(0.0, wake_at - now)
            for key, _ in self._selector.select(timeout):
                key.data()
            self._reap()
            self._start_due()

    def _start_due(self) -> None:
        now = time.monotonic()
        started = [unit for unit in self._units if unit.start_at is not None and unit.start_at <= now]
        for unit in started:
            unit.start(self._folder.console, self._folder.home, now)
        if started:
            self._report()

    def _reap(self) -> None:
        """Collect every ended process, orphans too."""
        changed = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            for unit in self._units:
                if unit.pid == pid:
                    unit.ended(os.waitstatus_to_exitcode(status), time.monotonic(), self._restarting)
                    self._note(f"{unit.name} ended with {os.waitstatus_to_exitcode(status)}")
                    changed = True
        if any(unit.done for unit in self._units):
            self._units = [unit for unit in self._units if not unit.done]
            if self._restarting:
                self._start_services()
        if changed:
            self._report()

    def _button_pressed(self) -> None:
        os.read(self._button, 4096)
        self._shutdown_wanted("a process on it shuts the system down")

    def _ordered(self) -> None:
        order = os.read(sys.stdin.fileno(), 4096)
        if not order or b"off" in order:
            raise _PowerCut
        self._shutdown_wanted("the power button was pressed")

    def _shutdown_wanted(self, by: str) -> None:
        if self._restarting:
            self._note(by)
            raise _SystemShutdown

    def _note(self, text: str) -> None:
        with self._folder.console.open("a") as console:
            console.write(f"[machine] {text}\n")

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._report()

    def _report(self) -> None:
        units = {unit.name: unit.pid for unit in self._units if unit.pid is not None}
        self._folder.write_report(
            MachineReport(self._folder.path.name, self._phase, os.getpid(), self._imds_url, units)
        )


def _all_ended(units: list[Unit]) -> bool:
    return all(unit.pid is None for unit in units)
