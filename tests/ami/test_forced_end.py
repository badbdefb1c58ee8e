"""Agents that the sidecar must have power over, though they are another user's: a stock one, which it freezes, and one it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import task_image
from .machine import wait_for
from .stage import CLUSTER, INSTANCE_TYPE, POOL, Stage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

#: As the sidecar does it when EC2 takes the instance and the task does not stop; with its rights, as a unit like its own.
END_SLOT = """
from pathlib import Path
from scaler_plugin.agent.slot_ender import LocalSlotEnder
from scaler_plugin.core.model import Slot, SlotState, WorkerId
LocalSlotEnder(Path("/run/scaler-sidecar"), [WorkerId({worker!r})]).end(Slot(0, SlotState.BUSY, 0.0))
"""
UNTIL_LET_GO = "import os, time\nwhile not os.path.exists('/var/lib/clearml/go'):\n    time.sleep(0.2)\n"
AGENT = "clearml-agent@0.service"

NewStage = Callable[..., Stage]


@pytest.fixture
def new_stage(image: Path, tmp_path: Path, artifacts: Path) -> Iterator[NewStage]:
    made: list[Stage] = []

    def new(**pool: Any) -> Stage:
        stage = Stage(image, tmp_path / f"stage-{len(made)}", f"ami-end-{os.getpid()}-{len(made)}")
        made.append(stage)
        stage.push_config(idle_timeout="never", **pool)
        stage.launch()
        return stage

    yield new
    for number, stage in enumerate(made):
        (artifacts / f"console-forced-{number}.log").write_text(stage.machine.console)
        stage.close()


def worker_id(stage: Stage) -> str:
    return f"{CLUSTER}:{POOL}:{INSTANCE_TYPE}:{stage.instance_id}"


def slots(stage: Stage) -> list[dict[str, Any]]:
    """The node's slots as ``status`` shows them."""
    nodes = json.loads(stage.sidecar_command("status", "--json"))["nodes"]
    return [slot for node in nodes if node["instance_id"] == stage.instance_id for slot in node["slots"]]


def wait_slot(stage: Stage, state: str) -> None:
    wait_for(f"a slot that is {state}", lambda: [slot["state"] for slot in slots(stage)] == [state], 120)


def end_by_force(stage: Stage) -> None:
    machine = stage.machine
    unit = "like-the-sidecar.service"
    machine.write("/run/end_slot.py", END_SLOT.format(worker=worker_id(stage)))
    machine.run("cp", "/etc/systemd/system/scaler-sidecar.service", f"/run/systemd/system/{unit}")
    run = "ExecStart=/opt/scaler-sidecar/venv/bin/python /run/end_slot.py"
    machine.write(f"/run/systemd/system/{unit}.d/run.conf", f"[Service]\nType=oneshot\nRestart=no\nExecStart=\n{run}\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", unit)


@pytest.mark.parametrize("in_docker", [False, True], ids=["virtual environment", "docker"])
def test_a_forced_end_ends_agent_and_task_and_the_task_is_not_reported_failed(
    new_stage: NewStage, image: Path, in_docker: bool
) -> None:
    docker = {"docker_image": task_image.pulled(image), "extra_clearml_conf": task_image.OFFLINE_CONF}
    stage = new_stage(**(docker if in_docker else {}))
    stage.wait_polling()
    task = stage.enqueue(UNTIL_LET_GO)
    works = ("pgrep", "--full", "-u", "root" if in_docker else "clearml", f"execute .*--id {task}")
    machine = stage.machine
    wait_for("the task runs", lambda: stage.task_status(task) == "in_progress" and machine.try_run(*works).stdout, 120)
    agent = machine.property_of(AGENT, "MainPID")
    end_by_force(stage)
    wait_for("nothing of the task lives", lambda: not machine.try_run(*works).stdout)
    wait_for("another agent", lambda: machine.property_of(AGENT, "MainPID") not in (agent, "0"))
    stage.wait_polling()
    assert stage.task_status(task) == "in_progress"


def test_a_node_with_a_stock_agent_works_is_spared_by_the_dead_man_and_retires(new_stage: NewStage) -> None:
    stage = new_stage(freeze_fallback=True)
    machine = stage.machine
    wait_slot(stage, "idle")
    task = stage.enqueue(UNTIL_LET_GO)
    wait_slot(stage, "busy")
    said = machine.run("env", "DEADMAN_SILENCE_S=0", "/usr/lib/scaler-sidecar/deadman")
    assert "carries out a task: the machine stays on" in said
    machine.run("touch", "/var/lib/clearml/go")
    wait_for("the task has ended", lambda: stage.task_status(task) not in ("queued", "in_progress"), 120)
    assert stage.task_status(task) == "completed"
    wait_slot(stage, "idle")
    sidecar = "scaler-sidecar.service"
    machine.run("kill", "-9", machine.property_of(sidecar, "MainPID"))
    wait_for("another sidecar", lambda: machine.property_of(sidecar, "NRestarts") == "1")
    wait_for("it is ready", lambda: machine.property_of(sidecar, "ActiveState") == "active")
    stage.push_config(idle_timeout="3s", freeze_fallback=True)
    assert machine.wait_ended(120) == 0, machine.console
    assert "agent_not_signalled" not in machine.console


def test_a_forced_end_of_a_stock_agent_leaves_its_task_in_progress(new_stage: NewStage) -> None:
    stage = new_stage(freeze_fallback=True)
    wait_slot(stage, "idle")
    task = stage.enqueue(UNTIL_LET_GO)
    machine = stage.machine
    works = ("pgrep", "--full", "-u", "clearml", f"execute .*--id {task}")
    wait_for("the task runs", lambda: stage.task_status(task) == "in_progress" and machine.try_run(*works).stdout, 120)
    agent = machine.property_of(AGENT, "MainPID")
    end_by_force(stage)
    wait_for("nothing of the task lives", lambda: not machine.try_run(*works).stdout)
    wait_for("another agent", lambda: machine.property_of(AGENT, "MainPID") not in (agent, "0"))
    assert stage.task_status(task) == "in_progress"
