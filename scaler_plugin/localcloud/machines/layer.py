"""The machine layer: makes the machines follow EC2's instances, and EC2's states follow the machines.

Level-triggered: each pass compares both lists. While EC2 is away the machines go on, and what happened to them is reported
when it is back. Machines do not outlive the layer: an instance that runs without one has lost its power.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from scaler_plugin.cloud.metadata import InstanceFacts
from scaler_plugin.core.model import InstanceId
from scaler_plugin.errors import HostError
from scaler_plugin.localcloud.imds import write_facts
from scaler_plugin.localcloud.machines.folder import MachineReport, Phase
from scaler_plugin.localcloud.machines.ground import Ground
from scaler_plugin.localcloud.machines.instances import Ec2Away, Instances, WantedInstance
from scaler_plugin.localcloud.machines.process import MachineProcess

log = structlog.get_logger(__name__)

PASS_INTERVAL_S = 0.2
CONSOLE_INTERVAL_S = 2.0
#: EC2 keeps the last 64 kB of a console.
CONSOLE_LIMIT = 64 * 1024


class _Machine:
    """A machine and what of it EC2 has been told."""

    def __init__(self, process: MachineProcess) -> None:
        self.process = process
        self.told = Phase.PENDING
        self.button_pressed = False
        self.console_size = 0
        self.console_at = 0.0


class Machines:
    """Runs in a thread of this process from :meth:`start` to :meth:`stop`; the other methods may be called from any thread."""

    def __init__(
        self,
        instances: Instances,
        directory: Path,
        caller: Mapping[str, str],
        cloud: Callable[[str], Mapping[str, str]],
        boot_delay_s: float = 2.0,
        program: Sequence[str] = (),
        ground: Ground | None = None,
        steady: bool = False,
    ) -> None:
        """``cloud`` gives the environment by which a machine in this region finds EC2 and ClearML; ``program`` stands in for
        ``scaler-sidecar``."""
        self._instances = instances
        self._directory = directory
        self._caller = caller
        self._cloud = cloud
        self._boot_delay_s = boot_delay_s
        self._program = program
        self._ground = ground
        self._steady = steady
        self._machines: dict[str, _Machine] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="machines", daemon=True)

    def start(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Cut the power of all machines; afterwards nothing of them lives. Harmless when called twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            machines = [machine.process for machine in self._machines.values()]
            self._machines.clear()
        for process in machines:
            process.cut_power()
        for process in machines:
            process.wait_off()
            if self._ground is not None:
                self._ground.vacate(process.folder.path)

    def reports(self) -> tuple[MachineReport, ...]:
        """The machines that are on."""
        with self._lock:
            return tuple(machine.process.report for machine in self._machines.values() if machine.process.on)

    def cut_power(self, instance_id: str) -> None:
        """A hard power-off of one machine. Raises ``HostError`` when it is not on."""
        with self._lock:
            machine = self._machines.get(instance_id)
        if machine is None:
            raise HostError(f"There is no machine {instance_id}, or it is off.")
        machine.process.cut_power()

    def _run(self) -> None:
        while not self._stopping.wait(PASS_INTERVAL_S):
            try:
                self.step()
            except Ec2Away as away:
                log.debug("ec2_away", reason=str(away))
            except Exception:
                log.exception("machine_layer_failed")  # a bug; the other machines must not die of it

    def step(self) -> None:
        """One pass. Raises :class:`~scaler_plugin.localcloud.machines.instances.Ec2Away`."""
        listed = self._instances.listed()
        for instance in listed:
            machine = self._machines.get(instance.instance_id)
            if machine is None:
                self._without_machine(instance)
            elif instance.state in ("shutting-down", "terminated", "stopping") and not machine.button_pressed:
                machine.button_pressed = True
                machine.process.press_power_button()
        for instance_id, machine in list(self._machines.items()):
            self._tell(instance_id, machine)

    def _without_machine(self, instance: WantedInstance) -> None:
        if instance.wants_power:
            self._switch_on(instance)
        elif instance.state == "running":
            self._instances.ended(instance.instance_id, lost_power=True)
        elif instance.state == "shutting-down":
            self._instances.ended(instance.instance_id, lost_power=False)

    def _switch_on(self, instance: WantedInstance) -> None:
        facts = InstanceFacts(
            InstanceId(instance.instance_id),
            instance.instance_type,
            instance.zone,
            instance.region,
            instance.market,
            self._instances.user_data(instance.instance_id),
        )
        path = self._directory / instance.instance_id
        path.mkdir(mode=0o700, exist_ok=True)
        write_facts(path / "facts.json", facts)
        process = MachineProcess(
            path,
            self._caller,
            self._cloud(instance.region),
            boot_delay_s=self._boot_delay_s,
            program=self._program,
            steady=self._steady,
            ground=() if self._ground is None else self._ground.settle(path),
        )
        with self._lock:
            self._machines[instance.instance_id] = _Machine(process)

    def _tell(self, instance_id: str, machine: _Machine) -> None:
        """Bring EC2 up to date about one machine."""
        off = not machine.process.on
        phase = machine.process.report.phase
        if machine.told is Phase.PENDING and phase is Phase.RUNNING:
            self._instances.booted(instance_id)
            machine.told = Phase.RUNNING
        if machine.told is not Phase.SHUTTING_DOWN and phase in (Phase.SHUTTING_DOWN, Phase.ENDED):
            if not machine.button_pressed:
                self._instances.shutting_down(instance_id)
                machine.button_pressed = True  # what EC2 lists from now on is our own doing
            machine.told = Phase.SHUTTING_DOWN
        self._show_console(instance_id, machine, now=off)
        if off:
            machine.process.clear()
            if self._ground is not None:
                self._ground.vacate(machine.process.folder.path)
            self._instances.ended(instance_id, lost_power=phase is not Phase.ENDED)
            with self._lock:
                del self._machines[instance_id]

    def _show_console(self, instance_id: str, machine: _Machine, now: bool) -> None:
        console = machine.process.folder.console
        size = console.stat().st_size
        clock = time.monotonic()
        if size == machine.console_size or not (now or clock - machine.console_at >= CONSOLE_INTERVAL_S):
            return
        with console.open("rb") as file:
            file.seek(max(0, size - CONSOLE_LIMIT))
            self._instances.console(instance_id, file.read())
        machine.console_size, machine.console_at = size, clock
