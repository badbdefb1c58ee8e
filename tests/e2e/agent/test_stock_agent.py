"""Stock agents without the plugin, frozen for their node's retirement: what they hold is seen, and nothing is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from scaler_plugin.agent.freeze import FreezeGates
from scaler_plugin.agent.stock_processes import is_stopped
from scaler_plugin.clearml_server.api import ClearmlServer
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.core.model import InstanceId, NodeIdentity, NodeRole, PoolName, QueueName, Slot, SlotState
from scaler_plugin.core.ports import TaskServer
from scaler_plugin.errors import TaskServerUnavailable
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess
from scaler_plugin.localcloud.machines.process_tree import MACHINE_MARKER, kill_marked
from scaler_plugin.node.setup import NodeSetup, write_setup

from ...waiting import PATIENCE_S, STARTING_S, until

pytestmark = [pytest.mark.real, pytest.mark.slow]

#: Each trial runs a task to its end, which takes older agents many seconds on a busy machine.
TRIALS = {"3.0.3": 40}
FEW_TRIALS = 12
#: Who wins a trial is chance, and the machine's load has a say: the race goes on until it went either way, at most so often.
MOST_TRIALS = 150
#: The agents ask every 0.2 s. A trial whose outcome is still missing waits for less or for longer than in the others.
SPAN_S, LONG_SPAN_S = 0.35, 1.5
WAITS, BUSY = "closed, the task waits", "not closed"
QUICK = "print('done quickly')\n"


class WallClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture(scope="module")
def clearml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClearmlApiProcess]:
    with ClearmlApiProcess(tmp_path_factory.mktemp("clearml"), faults=True) as server:
        yield server


class StockNode:
    """A machine with a stock agent on it, as a user's own image starts it."""

    def __init__(self, folder: Path, home: Path, server: ClearmlApiProcess) -> None:
        self.home = home
        self.url = server.url
        self._keys = (server.access_key, server.secret_key)
        name = os.urandom(4).hex()
        self.queue = QueueName(f"stock-{name}")
        identity = NodeIdentity("test", InstanceId(f"i-{name}"), NodeRole.WORKER, PoolName("cpu"), "t3.small")
        setup = NodeSetup(
            identity, EtcdSettings(("127.0.0.1:1",)), "scaler", queues=(self.queue,), cpu_only=True, freeze=True
        )
        write_setup(home / "state", setup)
        (self.worker_id,) = setup.worker_ids
        self.call("queues.create", name=self.queue)
        self.server: TaskServer = ClearmlServer(
            api_host=server.url, access_key=server.access_key, secret_key=server.secret_key
        )
        self.gates = self.new_gates()
        self._agents: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CLEARML", "TRAINS"))},
            **server.client_environment(),
            MACHINE_MARKER: str(home),
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONPATH": str(folder),
            "PYTHONUNBUFFERED": "1",
            "SCALER_STATE_DIR": str(home / "state"),
            "CLEARML_CONFIG_FILE": str(home / "clearml.conf"),
            "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": "0.2",
            "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1",
        }
        (home / "clearml.conf").write_text("agent { disable_agent_update_check: true }\n")

    def new_gates(self) -> FreezeGates:
        return FreezeGates([self.worker_id], [self.queue], lambda: self.server, WallClock(), self.home / "state")

    def call(self, endpoint: str, **request: Any) -> dict[str, Any]:
        answer = requests.post(f"{self.url}/{endpoint}", json=request, auth=self._keys, timeout=PATIENCE_S)
        assert answer.ok, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def fault(self, **rule: Any) -> None:
        requests.post(f"{self.url}/_faults", json=rule, timeout=PATIENCE_S).raise_for_status()

    def no_faults(self) -> None:
        requests.delete(f"{self.url}/_faults", timeout=PATIENCE_S).raise_for_status()

    def enqueue(self, script: str = QUICK) -> str:
        parts = {"diff": script, "entry_point": "task.py", "working_dir": ".", "repository": "", "binary": "python3"}
        task = self.call("tasks.create", name="a task", type="testing", script=parts)["id"]
        self.call("tasks.enqueue", task=task, queue_name=self.queue)
        return str(task)

    def status(self, task: str) -> str:
        return str(self.call("tasks.get_by_id", task=task)["task"]["status"])

    def waiting(self) -> list[str]:
        return list(self.server.backlogs([self.queue])[self.queue].task_ids)

    @property
    def log(self) -> str:
        return (self.home / "agent.log").read_text(errors="replace")

    def start_agent(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "scaler_plugin", "agent"]
        with (self.home / "agent.log").open("ab") as log:
            self._agents.append(
                subprocess.Popen(
                    command,
                    env=self._environment,
                    cwd=self.home,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        self.wait_for("the first poll", lambda: "No tasks in Queues" in self.log)
        self.wait_for("the slot being idle", lambda: self.slot().state is SlotState.IDLE)
        return self._agents[-1]

    def slot(self) -> Slot:
        return self.gates.slots()[0]

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        until(condition, what, STARTING_S, seen=lambda: f"the agent's log:\n{self.log[-5000:]}")

    def wait_for_status(self, task: str, status: str) -> None:
        self.wait_for(f"task {task} being {status}", lambda: self.status(task) == status)

    def close(self) -> None:
        self.wait_for("the gate closing", self.gates.close)

    def end(self) -> None:
        self.no_faults()
        for agent in self._agents:
            agent.kill()
            agent.wait()
        kill_marked(str(self.home))


@pytest.fixture
def node(agent_folder: Path, tmp_path: Path, clearml: ClearmlApiProcess) -> Iterator[StockNode]:
    made = StockNode(agent_folder, tmp_path, clearml)
    yield made
    made.end()


def test_a_task_shows_as_busy_with_its_id_and_the_slot_is_idle_after(node: StockNode) -> None:
    node.start_agent()
    release = node.home / "go"
    task = node.enqueue(f"import os, time\nwhile not os.path.exists({str(release)!r}):\n    time.sleep(0.05)\n")
    node.wait_for("the slot being busy with the task", lambda: node.slot().task_id == task)
    assert node.slot().state is SlotState.BUSY
    assert not node.gates.close()
    release.touch()
    node.wait_for_status(task, "completed")
    node.wait_for("the slot being idle", lambda: node.slot().state is SlotState.IDLE)


def test_a_frozen_agent_pulls_nothing_and_a_thawed_one_goes_on(node: StockNode) -> None:
    agent = node.start_agent()
    node.close()
    assert is_stopped(agent.pid)
    task = node.enqueue()
    polls = node.log.count("No tasks in Queues")
    time.sleep(1.0)  # five polls' time: that nothing happens can only be waited for
    assert node.log.count("No tasks in Queues") == polls
    assert node.waiting() == [task]
    node.gates.open()
    node.wait_for_status(task, "completed")


def test_an_agent_in_the_middle_of_a_pull_is_thawed_and_runs_what_it_got(node: StockNode) -> None:
    node.start_agent()
    node.fault(action="queues.get_next_task", hang_s=5, after=True)
    task = node.enqueue()
    node.wait_for("the server's pop", lambda: not node.waiting())
    assert not node.gates.close()
    node.no_faults()
    node.wait_for_status(task, "completed")


def test_an_agent_that_sleeps_with_a_task_it_could_not_start_is_seen_through_the_server(node: StockNode) -> None:
    agent = node.start_agent()
    # The agent has popped the task and sleeps between its tries to mark it as started: by itself it looks idle.
    node.fault(action="tasks.started", status=500)
    task = node.enqueue()
    node.wait_for("the server's pop", lambda: not node.waiting())
    for _ in range(40):
        assert not node.gates.close(), "the node could end with the task in the agent's hands"
        time.sleep(0.05)
    assert not is_stopped(agent.pid)
    assert node.status(task) == "queued"


def test_a_server_that_does_not_answer_leaves_the_agent_running(node: StockNode) -> None:
    class Away:
        def __getattr__(self, _name: str) -> Any:
            raise TaskServerUnavailable("ClearML does not answer")

    agent = node.start_agent()
    gates = FreezeGates([node.worker_id], [node.queue], Away, WallClock(), node.home / "state")
    assert not gates.close()
    assert not is_stopped(agent.pid)


def test_a_new_sidecar_thaws_what_a_dead_one_has_frozen_unless_the_machine_is_ending(node: StockNode) -> None:
    agent = node.start_agent()
    node.close()
    node.new_gates()
    assert not is_stopped(agent.pid)
    node.gates = node.new_gates()
    node.close()
    node.gates.seal()
    assert node.new_gates().sealed()
    assert is_stopped(agent.pid)


def test_what_outlives_a_killed_agent_keeps_the_slot_busy(node: StockNode) -> None:
    agent = node.start_agent()
    release = node.home / "go"
    task = node.enqueue(f"import os, time\nwhile not os.path.exists({str(release)!r}):\n    time.sleep(0.05)\n")
    node.wait_for("the slot being busy with the task", lambda: node.slot().task_id == task)
    agent.kill()
    agent.wait()
    assert node.slot().state is SlotState.BUSY
    assert not node.gates.close()
    release.touch()
    node.wait_for("the slot being down", lambda: node.slot().state is SlotState.DOWN)


@pytest.mark.timeout(1800)
def test_no_task_is_lost_in_any_race_of_freezing_against_enqueueing(
    node: StockNode, agent_folder: Path, record_property: Callable[[str, object], None]
) -> None:
    node.start_agent()
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    tasks: list[str] = []
    least = TRIALS.get(agent_folder.name, FEW_TRIALS)
    while len(tasks) < least or (len(tasks) < MOST_TRIALS and not (outcomes[WAITS] and outcomes[BUSY])):
        late = len(tasks) >= least
        tasks.append(node.enqueue())
        # The random moments are the point of a race.
        if not late or not outcomes[BUSY]:
            time.sleep(rng.uniform(0.0, LONG_SPAN_S if late else SPAN_S))
        if node.gates.close():
            # What a node that retires here would leave behind must stand in the queue.
            held = node.status(tasks[-1])
            assert held in ("completed", "queued"), f"seed {seed}: closed over a task that is {held}"
            assert held == "completed" or node.waiting() == [tasks[-1]], f"seed {seed}: closed over a task in limbo"
            outcomes[WAITS if held == "queued" else "closed, the task had ended"] += 1
            node.gates.open()
        else:
            outcomes[BUSY] += 1
        node.wait_for_status(tasks[-1], "completed")
    record_property("outcomes", dict(outcomes))
    print(f"freeze race: {dict(outcomes)}")
    assert outcomes[WAITS], "the race never closed in time: it proves nothing"
    assert outcomes[BUSY], "the race never met a busy agent: it proves nothing"
    assert node.log.count("User aborted") == 0
