"""The real clearml SDK and the real clearml-agent work against the ClearML API stand-in as against their own server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess

from ..waiting import PATIENCE_S, STARTING_S, until

pytestmark = [pytest.mark.real, pytest.mark.slow]

WORKER = "demo:cpu:t3.small:i-0001"

CREATE = """
import sys
from clearml import Task
task = Task.create(project_name="project of the demo", task_name=sys.argv[1], script=sys.argv[2], packages=[])
Task.enqueue(task, queue_name="default")
print("ID", task.id)
"""

PRINTS_AND_REPORTS = """
from clearml import Task
task = Task.init(auto_resource_monitoring=False, auto_connect_frameworks=False)
print("hello from the task", flush=True)
task.get_logger().report_scalar("loss", "train", value=0.25, iteration=3)
"""


class Site:
    """A server with one agent, and a client's environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api = ClearmlApiProcess(folder / "api")
        self.api.start()
        config = folder / "clearml.conf"
        config.write_text(
            f'agent {{ venvs_dir: "{folder}/venvs", vcs_cache.path: "{folder}/vcs", pip_download_cache.path: "{folder}/pip",'
            f' docker_pip_cache: "{folder}/docker" }}\nsdk.storage.cache.default_base_dir: "{folder}/cache"\n'
        )
        (folder / "tmp").mkdir()
        self.environment = {
            **os.environ,
            **self.api.client_environment(),
            "CLEARML_CONFIG_FILE": str(config),
            "CLEARML_AGENT_SKIP_PIP_VENV_INSTALL": sys.executable,
            "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1",
            "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": "0.2",
            "CLEARML_WORKER_ID": WORKER,
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
        }
        with (folder / "agent.log").open("wb") as log:
            command = [sys.executable, "-m", "clearml_agent", "daemon", "--queue", "default", "--foreground"]
            self.agent = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def end(self) -> None:
        children = psutil.Process(self.agent.pid).children(recursive=True) if self.agent.poll() is None else []
        self.agent.terminate()
        try:
            self.agent.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.agent.kill()
            self.agent.wait()
        for child in psutil.wait_procs(children, timeout=5)[1]:
            child.kill()
        self.api.stop()

    def enqueue(self, name: str, source: str) -> str:
        """Create and enqueue a task with the SDK; return its id."""
        script = self.folder / f"{name}.py"
        script.write_text(source)
        command = [sys.executable, "-c", CREATE, name, str(script)]
        done = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=STARTING_S,
            check=False,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr
        return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("ID "))

    def call(self, action: str, **data: Any) -> dict[str, Any]:
        keys = (self.api.access_key, self.api.secret_key)
        response = requests.post(f"{self.api.url}/{action}", json=data, auth=keys, timeout=PATIENCE_S)
        assert response.ok, response.text
        answer: dict[str, Any] = response.json()["data"]
        return answer

    def task(self, task_id: str) -> dict[str, Any]:
        task: dict[str, Any] = self.call("tasks.get_by_id", task=task_id)["task"]
        return task

    def wait_for_task(self, task_id: str, reached: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until the task is as wanted."""

        def seen() -> str:
            return f"{self.task(task_id)['status']}: {(self.folder / 'agent.log').read_text()[-3000:]}"

        until(lambda: reached(self.task(task_id)), "the task as wanted", STARTING_S, seen=seen, every_s=0.2)

    def console(self, task_id: str) -> str:
        return "".join(event["msg"] for event in self.call("events.get_task_log", task=task_id)["events"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.end()


def test_a_task_made_by_the_sdk_is_run_by_the_agent_to_its_end(site: Site) -> None:
    task_id = site.enqueue("prints", PRINTS_AND_REPORTS)
    site.wait_for_task(task_id, lambda task: task["status"] == "completed")
    task = site.task(task_id)
    assert task["last_worker"] == WORKER
    assert task["last_iteration"] == 3
    assert [v["value"] for metric in task["last_metrics"].values() for v in metric.values()] == [0.25]
    assert "hello from the task" in site.console(task_id)
    workers = site.call("workers.get_all")["workers"]
    assert [worker["id"] for worker in workers] == [WORKER]


def test_a_task_that_exits_with_a_code_fails(site: Site) -> None:
    task_id = site.enqueue("fails", "import sys\nprint('about to fail', flush=True)\nsys.exit(3)\n")
    site.wait_for_task(task_id, lambda task: task["status"] == "failed")
    assert site.task(task_id)["status_reason"] == "worker execution exit code 3"
    assert "about to fail" in site.console(task_id)


def test_an_aborted_task_is_stopped_by_its_agent(site: Site) -> None:
    task_id = site.enqueue("endless", "import time\nprint('started', flush=True)\nwhile True: time.sleep(0.1)\n")
    site.wait_for_task(task_id, lambda task: task["status_reason"] == "worker starting task execution")
    assert site.call("tasks.stop", task=task_id)["fields"]["status_message"] == "stopping"
    site.wait_for_task(task_id, lambda task: task["status"] == "stopped")
    transitions = requests.get(f"{site.api.url}/_transitions", timeout=PATIENCE_S).json()
    ours = [line for line in transitions if line["task"] == task_id]
    assert [line["to"] for line in ours if line["to"] != line["from"]] == [
        "created",
        "queued",
        "in_progress",
        "stopped",
    ]
    assert ours[-1]["worker"] == WORKER


def test_an_agent_that_is_asked_to_end_leaves_the_list_of_workers(site: Site) -> None:
    site.agent.send_signal(signal.SIGTERM)
    site.agent.wait(STARTING_S)
    assert site.call("workers.get_all")["workers"] == []
