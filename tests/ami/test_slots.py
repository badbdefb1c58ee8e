"""A node with two agents: two tasks at once, and it ends only when neither works."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import wait_for
from .stage import CLUSTER, INSTANCE_TYPE, POOL, Stage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

SLOTS = (0, 1)


@pytest.fixture(scope="module")
def node(image: Path, tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Iterator[Stage]:
    stage = Stage(image, tmp_path_factory.mktemp("slots"), f"ami-slots-{os.getpid()}")
    try:
        stage.push_config(slots_per_node=len(SLOTS), idle_timeout="never")
        stage.launch()
        for slot in SLOTS:
            stage.wait_polling(slot)
        yield stage
    finally:
        (artifacts / "console-slots.log").write_text(stage.machine.console)
        stage.close()


def waiting_task(node: Stage, name: str) -> str:
    """Start a task that ends once :func:`let_go` says so."""
    file = f"/var/lib/clearml/{name}"
    return node.enqueue(f"import os, time\nwhile not os.path.exists({file!r}):\n    time.sleep(0.2)\n")


def let_go(node: Stage, name: str) -> None:
    node.machine.run("touch", f"/var/lib/clearml/{name}")


def working(node: Stage) -> dict[str, str]:
    """Worker and task, of those that ClearML sees at work."""
    workers = node.clearml_call("workers.get_all")["workers"]
    return {worker["id"]: worker["task"]["id"] for worker in workers if worker.get("task")}


def test_both_agents_run_as_units_and_are_known_to_clearml(node: Stage) -> None:
    for slot in SLOTS:
        assert node.machine.property_of(f"clearml-agent@{slot}.service", "ActiveState") == "active"
    expected = {f"{CLUSTER}:{POOL}:{INSTANCE_TYPE}:{node.instance_id}:{slot}" for slot in SLOTS}
    wait_for("both workers have reported", lambda: set(node.workers()) == expected)


def test_two_tasks_run_at_once_and_the_node_ends_after_the_last_of_them(node: Stage) -> None:
    tasks = {name: waiting_task(node, name) for name in ("first", "second")}
    wait_for("two workers at work on two tasks", lambda: set(working(node).values()) == set(tasks.values()))
    node.push_config(slots_per_node=len(SLOTS), idle_timeout="3s")
    let_go(node, "first")
    wait_for("the first has ended", lambda: node.task_status(tasks["first"]) == "completed")
    # Longer than the idle timeout: one idle slot is no idle node.
    since = time.monotonic()
    wait_for("twice the idle timeout has passed", lambda: time.monotonic() - since > 6)
    assert node.machine.running
    assert node.task_status(tasks["second"]) == "in_progress"
    let_go(node, "second")
    wait_for("the second has ended", lambda: node.task_status(tasks["second"]) == "completed")
    assert node.machine.wait_ended(120) == 0, node.machine.console
