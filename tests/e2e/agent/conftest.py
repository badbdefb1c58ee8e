"""Stock agents of three generations from PyPI, and a node that runs one against the ClearML stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from scaler_plugin.agent.slots import NodeSlots
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.core.model import InstanceId, NodeIdentity, NodeRole, PoolName, QueueName, Slot, SlotState
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess
from scaler_plugin.localcloud.machines.process_tree import MACHINE_MARKER, kill_marked
from scaler_plugin.node.setup import NodeSetup, write_setup

from ...waiting import PATIENCE_S, STARTING_S, until

AGENT_VERSIONS = ("1.9.3", "2.0.7", "3.0.3")
POLL_S = 0.2
#: In whole: what agents since 2.0 make of CLEARML_AGENT_QUEUE_POLL_FREQ_SEC, and an earlier one does not know. Nothing else of it
#: is changed, and a copy with another text is refused.
POLLING_OF_1_9 = "self._polling_interval = max(kwargs.get('polling_interval', 5), 5)"
QUICK_POLLING = "self._polling_interval = float(os.environ['CLEARML_AGENT_QUEUE_POLL_FREQ_SEC'])"
QUEUES = (QueueName("urgent"), QueueName("later"))


class WallClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def install(version: str, cache: Path) -> Path:
    """The folder that holds this clearml-agent, installed once and kept; its dependencies are the test environment's."""
    folder = cache / version
    if not folder.exists():
        # Another test process may do the same: the rename decides, and the loser uses the winner's.
        scratch = Path(tempfile.mkdtemp(dir=cache))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(scratch)]
        subprocess.run([*pip, f"clearml-agent=={version}"], check=True)
        if version.startswith("1."):
            poll_quickly(scratch / "clearml_agent" / "commands" / "worker.py")
        try:
            scratch.rename(folder)
        except OSError:
            shutil.rmtree(scratch)
    return folder


def poll_quickly(worker: Path) -> None:
    """Have this copy's agent ask for tasks as often as the others do: its five seconds a poll were most of the tests' time."""
    source = worker.read_text()
    assert source.count(POLLING_OF_1_9) == 1, f"{worker} sets its polling interval in another way"
    worker.write_text(source.replace(POLLING_OF_1_9, QUICK_POLLING))


@pytest.fixture(params=AGENT_VERSIONS)
def agent_folder(request: pytest.FixtureRequest) -> Path:
    return install(request.param, Path(request.config.cache.mkdir("clearml-agent-quick")))


@pytest.fixture(scope="session")
def clearml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClearmlApiProcess]:
    with ClearmlApiProcess(tmp_path_factory.mktemp("clearml")) as server:
        yield server


class Clearml:
    """The ClearML server as a user of it."""

    def __init__(self, server: ClearmlApiProcess) -> None:
        self._server = server

    def call(self, endpoint: str, **request: Any) -> dict[str, Any]:
        keys = (self._server.access_key, self._server.secret_key)
        answer = requests.post(f"{self._server.url}/{endpoint}", json=request, auth=keys, timeout=PATIENCE_S)
        assert answer.ok, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def queue(self, name: str) -> str:
        found = self.call("queues.get_all", name=f"^{name}$")["queues"]
        return str(found[0]["id"] if found else self.call("queues.create", name=name)["id"])

    def enqueue(self, script: str, queue: str) -> str:
        """A task that is one small script; returns its id."""
        task = self.call(
            "tasks.create",
            name="a task",
            type="testing",
            script={
                "diff": script,
                "entry_point": "task.py",
                "working_dir": ".",
                "repository": "",
                "binary": "python3",
            },
        )["id"]
        self.call("tasks.enqueue", task=task, queue=self.queue(queue))
        return str(task)

    def status(self, task: str) -> str:
        return str(self.call("tasks.get_by_id", task=task)["task"]["status"])

    def waiting(self, queue: str) -> list[str]:
        entries = self.call("queues.get_by_id", queue=self.queue(queue))["queue"]["entries"]
        return [entry["task"] for entry in entries]


class AgentNode:
    """A node with one slot: agents can be started and killed on it, and its sidecar's view of it is at hand."""

    def __init__(self, folder: Path, home: Path, server: ClearmlApiProcess, name: str) -> None:
        self.clearml = Clearml(server)
        for queue in QUEUES:
            for left in self.clearml.waiting(queue):  # by another test, on the server that they share
                self.clearml.call("tasks.dequeue", task=left)
        self.state_dir = home / "state"
        self._home, self._folder = home, folder
        identity = NodeIdentity("test", InstanceId(name), NodeRole.WORKER, PoolName("cpu"), "t3.small")
        self.setup = NodeSetup(identity, EtcdSettings(("127.0.0.1:1",)), "scaler", queues=QUEUES, cpu_only=True)
        write_setup(self.state_dir, self.setup)
        self.sidecar = NodeSlots(self.state_dir, 1, self.setup.worker_ids, WallClock())
        self.started: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CLEARML", "TRAINS"))},
            **server.client_environment(),
            MACHINE_MARKER: str(home),
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONPATH": f"{folder}{os.pathsep}{os.getcwd()}",
            "PYTHONUNBUFFERED": "1",
            "SCALER_STATE_DIR": str(self.state_dir),
            "CLEARML_CONFIG_FILE": str(home / "clearml.conf"),
            "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": str(POLL_S),
            "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1",
        }
        (home / "clearml.conf").write_text("agent { disable_agent_update_check: true }\n")

    @property
    def log(self) -> str:
        return (self._home / "agent.log").read_text(errors="replace")

    def start_agent(self, *options: str) -> subprocess.Popen[bytes]:
        with (self._home / "agent.log").open("ab") as log:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "scaler_plugin", "agent", *options],
                    env=self._environment,
                    cwd=self._home,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        return self.started[-1]

    def slot(self) -> Slot:
        return self.sidecar.slots()[0]

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        def holds() -> bool:
            if condition():
                return True
            assert self.started[-1].poll() is None or self.slot().state is not SlotState.STARTING, self.log
            return False

        until(holds, what, STARTING_S, seen=lambda: f"the slot: {self.slot()}; the agent's log:\n{self.log}")

    def wait_for_state(self, state: SlotState) -> None:
        self.wait_for(f"the slot being {state.value}", lambda: self.slot().state is state)

    def wait_for_status(self, task: str, status: str) -> None:
        self.wait_for(f"task {task} being {status}", lambda: self.clearml.status(task) == status)

    def polls(self) -> int:
        """How many times the agent has gone through its queues and found nothing."""
        return self.log.count("No tasks in Queues")

    def polls_since_restart(self) -> int:
        """The same since the agent last started itself again."""
        return self.log.rpartition("agent_starts_again")[2].count("No tasks in Queues")

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        kill_marked(str(self._home))


@pytest.fixture
def node(agent_folder: Path, tmp_path: Path, clearml: ClearmlApiProcess) -> Iterator[AgentNode]:
    made = AgentNode(agent_folder, tmp_path, clearml, f"i-{agent_folder.name}-{os.urandom(4).hex()}")
    yield made
    made.end()
