"""A machine that is shut down from outside, as somebody terminates its instance, while a task of ClearML's SDK runs on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import task_image
from .machine import wait_for
from .stage import Stage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

#: The SDK reports through a process of its own and has a say on SIGTERM.
SDK_TASK = """
import time
from clearml import Task
task = Task.init(project_name="p", task_name="t")
task.set_parameter("began", True)
time.sleep(600)
"""
#: A task that stays after SIGTERM is killed after the system's time for stopping, 90 s; here it is not waited for so long.
SHORT_STOP = "[Manager]\nDefaultTimeoutStopSec=3\n"


@pytest.fixture
def stage(image: Path, tmp_path: Path, artifacts: Path) -> Iterator[Stage]:
    stage = Stage(image, tmp_path / "stage", f"ami-shut-{os.getpid()}")
    stage.file("/etc/systemd/system.conf.d/test.conf", SHORT_STOP)
    try:
        yield stage
    finally:
        (artifacts / "console-shutdown.log").write_text(stage.machine.console)
        stage.close()


@pytest.mark.parametrize("in_docker", [False, True], ids=["virtual environment", "docker"])
def test_a_shutdown_from_outside_leaves_the_task_in_progress_for_rescue(
    stage: Stage, image: Path, in_docker: bool
) -> None:
    docker = {"docker_image": task_image.pulled(image), "extra_clearml_conf": task_image.OFFLINE_CONF}
    stage.push_config(idle_timeout="never", **(docker if in_docker else {}))
    stage.launch()
    stage.wait_polling()
    task = stage.enqueue(SDK_TASK)

    def began() -> bool:
        return "began" in str(stage.clearml_call("tasks.get_by_id", task=task)["task"].get("hyperparams"))

    wait_for("the SDK has begun", began, 120)
    stage.machine.power_off()
    assert stage.task_status(task) == "in_progress"
