"""The real ``clearml-agent``, of each generation, with the gate around its pulls, against the ClearML stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from scaler_plugin.core.model import SlotState

from ...waiting import STARTING_S

pytestmark = [pytest.mark.real, pytest.mark.slow]

QUICK = "print('done quickly')\n"


def held_task(release: Path) -> str:
    """A task that runs until a file appears."""
    return f"import os, time\nwhile not os.path.exists({str(release)!r}):\n    time.sleep(0.05)\n"


def test_the_names_that_the_plugin_wraps_are_there(agent_folder: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(agent_folder)!r})\n"
        "from scaler_plugin.agent.stock_agent import load_stock_agent\n"
        "agent = load_stock_agent(); print(agent.version, agent.module.__file__)"
    )
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    version, file = said.stdout.split()
    assert version == agent_folder.name
    assert file.startswith(str(agent_folder))


def test_a_task_is_busy_on_disk_while_it_runs_and_the_slot_is_idle_after(node: Any, tmp_path: Path) -> None:
    node.start_agent()
    node.wait_for_state(SlotState.IDLE)
    task = node.clearml.enqueue(held_task(tmp_path / "go"), "later")
    node.wait_for_state(SlotState.BUSY)
    node.wait_for_status(task, "in_progress")
    slot = node.slot()
    assert (slot.task_id, slot.queue) == (task, "later")
    state = json.loads((node.state_dir / "slots" / "0" / "state.json").read_text())
    assert state["worker_id"] == f"test:cpu:t3.small:{node.setup.identity.instance_id}"
    workers = {worker["id"] for worker in node.clearml.call("workers.get_all")["workers"]}
    assert state["worker_id"] in workers
    (tmp_path / "go").touch()
    node.wait_for_status(task, "completed")
    node.wait_for_state(SlotState.IDLE)
    node.wait_for("closing the gate", node.sidecar.close)
    assert node.slot().state is SlotState.IDLE, "a helper process of the agent was taken for a task"


def test_a_closed_gate_leaves_the_task_in_its_queue_and_an_open_one_lets_it_run(node: Any) -> None:
    node.start_agent()
    node.wait_for_state(SlotState.IDLE)
    node.wait_for("closing the gate", node.sidecar.close)
    task = node.clearml.enqueue(QUICK, "urgent")
    polls = node.polls()
    node.wait_for("three polls", lambda: node.polls() >= polls + 3)
    assert node.clearml.waiting("urgent") == [task]
    assert node.clearml.status(task) == "queued"
    assert node.slot().state is SlotState.IDLE
    node.sidecar.open()
    node.wait_for_status(task, "completed")


def test_the_queue_named_first_goes_first(node: Any) -> None:
    node.start_agent()
    node.wait_for_state(SlotState.IDLE)
    node.wait_for("closing the gate", node.sidecar.close)
    later = node.clearml.enqueue(QUICK, "later")
    urgent = node.clearml.enqueue(QUICK, "urgent")
    node.sidecar.open()
    node.wait_for_status(later, "completed")
    assert node.clearml.status(urgent) == "completed"
    starts = [node.log.index(f"Running task '{task}'") for task in (urgent, later)]
    assert starts == sorted(starts)


def test_a_task_that_outlives_its_killed_agent_keeps_the_slot_busy_also_for_the_next_agent(
    node: Any, tmp_path: Path
) -> None:
    first = node.start_agent()
    node.wait_for_state(SlotState.IDLE)
    task = node.clearml.enqueue(held_task(tmp_path / "go"), "urgent")
    node.wait_for_status(task, "in_progress")
    node.wait_for("the task's process", lambda: runs_the_task(first.pid))
    first.kill()
    first.wait()
    assert (node.slot().state, node.slot().task_id) == (SlotState.BUSY, task)
    assert node.sidecar.close()
    assert node.slot().state is SlotState.BUSY, "the gate is closed and the task was overlooked"
    node.sidecar.open()

    next_task = node.clearml.enqueue(QUICK, "urgent")
    polls = node.polls()
    node.start_agent()
    node.wait_for("three polls of the next agent", lambda: node.polls() >= polls + 3)
    assert node.slot().state is SlotState.BUSY
    assert node.clearml.waiting("urgent") == [next_task]

    (tmp_path / "go").touch()
    node.wait_for_status(next_task, "completed")
    node.wait_for_state(SlotState.IDLE)


def test_sigterm_in_a_task_leaves_nothing_behind(node: Any, tmp_path: Path) -> None:
    agent = node.start_agent()
    node.wait_for_state(SlotState.IDLE)
    task = node.clearml.enqueue(held_task(tmp_path / "never"), "urgent")
    node.wait_for_status(task, "in_progress")
    node.wait_for("the task's process", lambda: runs_the_task(agent.pid))
    agent.terminate()
    agent.wait(STARTING_S)
    node.wait_for_state(SlotState.DOWN)
    assert node.sidecar.close()


def runs_the_task(agent_pid: int) -> bool:
    """Whether the agent has a child that executes a task."""
    for child in psutil.Process(agent_pid).children():
        with suppress(psutil.NoSuchProcess):  # the agent starts short ones, too
            if "execute" in child.cmdline():
                return True
    return False
