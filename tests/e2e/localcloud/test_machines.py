"""Machines behind an EC2 that a test plays itself: what runs on them, how they end, and that nothing outlives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaler_plugin.core.model import Market
from scaler_plugin.localcloud.machines.folder import Phase
from scaler_plugin.localcloud.machines.instances import Ec2Away, WantedInstance
from scaler_plugin.localcloud.machines.layer import Machines
from scaler_plugin.localcloud.machines.process import MachineProcess
from scaler_plugin.localcloud.machines.process_tree import marked

from ...waiting import STARTING_S

pytestmark = pytest.mark.real

PROGRAM = (sys.executable, str(Path(__file__).with_name("fake_sidecar.py")))
Wait = Callable[..., None]


@pytest.fixture
def machines(folder: Path) -> Iterator[Callable[..., MachineProcess]]:
    made: list[MachineProcess] = []

    def make(name: str = "i-1", **home: str) -> MachineProcess:
        path = folder / name
        (path / "home").mkdir(parents=True)
        for file, text in home.items():
            (path / "home" / file).write_text(text)
        (path / "facts.json").write_text("{}")
        made.append(MachineProcess(path, os.environ, {}, program=PROGRAM))
        return made[-1]

    yield make
    for machine in made:
        machine.cut_power()
        machine.wait_off()


def home(machine: MachineProcess) -> Path:
    return machine.folder.home


def test_it_boots_again_until_it_succeeds_and_then_runs_a_sidecar_and_an_agent_a_slot(
    machines: Callable[..., MachineProcess], wait: Wait
) -> None:
    machine = machines(unbootable="", slots="2")
    wait(lambda: machine.folder.console.read_text().count("boot failed") >= 2)
    assert set(machine.report.units) <= {"boot"}
    (home(machine) / "bootable").touch()

    wait(lambda: set(machine.report.units) == {"sidecar", "agent-0", "agent-1"})
    assert machine.report.phase is Phase.RUNNING


@pytest.mark.parametrize("unit", ["sidecar", "agent-0"])
def test_what_is_killed_is_started_again(unit: str, machines: Callable[..., MachineProcess], wait: Wait) -> None:
    machine = machines()
    first = machine.wait_for(unit, STARTING_S)
    os.kill(first, signal.SIGKILL)

    wait(lambda: machine.report.units.get(unit) not in (None, first))


def test_a_shutdown_from_inside_stops_the_agents_first_and_leaves_nothing(
    machines: Callable[..., MachineProcess], wait: Wait
) -> None:
    machine = machines()
    wait(lambda: "agent runs" in machine.folder.console.read_text())
    wait(lambda: "run runs" in machine.folder.console.read_text())
    subprocess.run(["/bin/sh", "-c", machine.folder.shutdown_command], check=True)

    wait(lambda: not machine.on)
    # An agent that is asked to stop would mark its task as aborted by a person, so it is not asked.
    assert (home(machine) / "stopped").read_text().split() == ["run"]
    console = machine.folder.console.read_text()
    assert console.index("agent-0 ended") < console.index("sidecar ended")
    assert machine.report.phase is Phase.ENDED
    assert marked(str(machine.folder.path)) == set()


def test_the_power_button_does_the_same(machines: Callable[..., MachineProcess], wait: Wait) -> None:
    machine = machines()
    wait(lambda: "agent runs" in machine.folder.console.read_text())
    machine.press_power_button()

    wait(lambda: not machine.on)
    assert machine.report.phase is Phase.ENDED
    assert marked(str(machine.folder.path)) == set()


def test_without_power_everything_is_gone_at_once(machines: Callable[..., MachineProcess], wait: Wait) -> None:
    machine = machines()
    wait(lambda: "agent runs" in machine.folder.console.read_text())
    wait(lambda: machine.report.phase is Phase.RUNNING)
    wait(lambda: len(marked(str(machine.folder.path))) >= 5)  # supervisor, sidecar, agent and what it left behind
    machine.cut_power()

    wait(lambda: not machine.on)
    assert marked(str(machine.folder.path)) == set()
    assert not (home(machine) / "stopped").exists()
    assert machine.report.phase is Phase.RUNNING


def test_a_killed_supervisor_leaves_nothing_once_the_machine_is_cleared(
    machines: Callable[..., MachineProcess], wait: Wait
) -> None:
    machine = machines()
    wait(lambda: "agent runs" in machine.folder.console.read_text())
    os.kill(machine.report.supervisor, signal.SIGKILL)
    wait(lambda: not machine.on)
    machine.clear()

    assert marked(str(machine.folder.path)) == set()


def test_the_machine_ends_with_the_process_that_switched_it_on(folder: Path, wait: Wait) -> None:
    (folder / "i-1").mkdir()
    (folder / "i-1" / "facts.json").write_text("{}")
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from scaler_plugin.localcloud.machines.process import MachineProcess\n"
        "machine = MachineProcess(Path(sys.argv[1]), os.environ, {}, program=sys.argv[2:])\n"
        "time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(folder / "i-1"), *PROGRAM])
    wait((folder / "i-1" / "console.log").exists)
    wait(lambda: "agent runs" in (folder / "i-1" / "console.log").read_text())
    owner.kill()
    owner.wait()

    wait(lambda: marked(str(folder / "i-1")) == set())


class PlayedEc2:
    """An EC2 whose list of instances the test writes."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.away = False
        self.told: list[tuple[str, str]] = []
        self.consoles: dict[str, bytes] = {}

    def listed(self) -> list[WantedInstance]:
        self._check()
        return [
            WantedInstance(i, state, "c5.large", "us-east-1a", "us-east-1", Market.ON_DEMAND, state == "pending")
            for i, state in self.states.items()
        ]

    def user_data(self, instance_id: str) -> str:
        return "cluster: demo"

    def booted(self, instance_id: str) -> None:
        self._tell(instance_id, "running")

    def shutting_down(self, instance_id: str) -> None:
        self._tell(instance_id, "shutting-down")

    def ended(self, instance_id: str, lost_power: bool) -> None:
        self._check()
        self.told.append((instance_id, "lost power" if lost_power else "in order"))
        self._tell(instance_id, "terminated")

    def console(self, instance_id: str, text: bytes) -> None:
        self._check()
        self.consoles[instance_id] = text

    def _tell(self, instance_id: str, state: str) -> None:
        self._check()
        # The state last: it is what a test waits for.
        self.told.append((instance_id, state))
        self.states[instance_id] = state

    def _check(self) -> None:
        if self.away:
            raise Ec2Away("the test says so")


@pytest.fixture
def ec2() -> PlayedEc2:
    return PlayedEc2()


@pytest.fixture
def layer(ec2: PlayedEc2, folder: Path) -> Iterator[Machines]:
    layer = Machines(ec2, folder / "machines", os.environ, lambda region: {}, 0.0, PROGRAM)
    layer.start()
    yield layer
    layer.stop()


def test_a_pending_instance_gets_a_machine_that_ends_when_it_is_terminated(
    layer: Machines, ec2: PlayedEc2, wait: Wait
) -> None:
    ec2.states["i-1"] = "pending"
    wait(lambda: any("agent-0" in report.units for report in layer.reports()))
    wait(lambda: ec2.states["i-1"] == "running")
    ec2.states["i-1"] = "shutting-down"

    wait(lambda: ec2.states["i-1"] == "terminated")
    assert ec2.told[-2] == ("i-1", "in order")
    assert ("i-1", "shutting-down") not in ec2.told
    wait(lambda: b"the power button was pressed" in ec2.consoles["i-1"])
    wait(lambda: layer.reports() == ())


def test_an_instance_that_loses_power_says_so(layer: Machines, ec2: PlayedEc2, wait: Wait) -> None:
    ec2.states["i-1"] = "pending"
    wait(lambda: any("agent-0" in report.units for report in layer.reports()))
    layer.cut_power("i-1")

    wait(lambda: ec2.states["i-1"] == "terminated")
    assert ec2.told[-2] == ("i-1", "lost power")


def test_while_ec2_is_away_machines_go_on_and_are_reported_afterwards(
    layer: Machines, ec2: PlayedEc2, folder: Path, wait: Wait
) -> None:
    ec2.states["i-1"] = "pending"
    ec2.states["i-2"] = "pending"
    wait(lambda: sum("agent-0" in report.units for report in layer.reports()) == 2)
    wait(lambda: set(ec2.states.values()) == {"running"})
    ec2.away = True
    subprocess.run(["/bin/sh", "-c", f"echo poweroff 1<>{folder}/machines/i-1/power"], check=True)
    wait(lambda: [report.name for report in layer.reports()] == ["i-2"])
    assert ec2.states["i-1"] == "running"
    ec2.away = False

    wait(lambda: ec2.states["i-1"] == "terminated")
    assert [what for instance, what in ec2.told if instance == "i-1"] == [
        "running",
        "shutting-down",
        "in order",
        "terminated",
    ]
    assert ec2.states["i-2"] == "running"


def test_a_new_layer_takes_instances_without_a_machine_for_lost(ec2: PlayedEc2, layer: Machines, wait: Wait) -> None:
    ec2.states["i-1"] = "running"

    wait(lambda: ec2.states["i-1"] == "terminated")
    assert ec2.told[-2] == ("i-1", "lost power")
