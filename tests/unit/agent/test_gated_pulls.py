"""The wrapping of the agent's two functions, on a fake agent of the same shape."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scaler_plugin.agent import plugin
from scaler_plugin.agent.gated_pulls import wrap
from scaler_plugin.agent.plugin import AgentSetup, daemon_options, gpus_of_slot, refuse_options, run_agent
from scaler_plugin.agent.pool_queues import QueuesChanged
from scaler_plugin.agent.stock_agent import StockAgent, load_stock_agent
from scaler_plugin.core.model import InstanceId, NodeIdentity, NodeRole, PoolName, QueueName, TaskId
from scaler_plugin.errors import ConfigError, HostError

FITTING = """
def get_next_task(session, queue, get_task_info=False):
    return session.pull(queue)

class Worker:
    def run_one_task(self, queue, task_id, worker_args, docker=None, task_session=None):
        if task_id == "bad":
            raise SystemExit(3)
        return 0

    def run_tasks_loop(self, queues, worker_params):
        get_next_task(None, queue=queues[0])
        self.run_one_task(queues[0], "t", worker_params)
"""


class RecordingSlot:
    def __init__(self) -> None:
        self.closed: set[int] = set()  # which attempts find the gate closed
        self.attempts = 0
        self.queues_changed = False
        self.events: list[tuple[Any, ...]] = []

    def try_enter_pull(self) -> bool:
        self.attempts += 1
        return self.attempts not in self.closed

    def finish_pull(self, task_id: TaskId | None, queue: QueueName | None = None) -> None:
        self.events.append(("pulled", task_id, queue))

    def task_ended(self, *, returned: bool) -> None:
        self.events.append(("ended", returned))


class FakeSession:
    """Answers as the server does: ``{}`` for an empty queue."""

    def __init__(self, **waiting: list[str]) -> None:
        self.waiting = waiting
        self.error: Exception | None = None

    def send_request(self, **_: Any) -> Any:
        raise ConnectionError("no names here")

    def pull(self, queue: str) -> Any:
        if self.error:
            raise self.error
        return {"entry": {"task": self.waiting[queue].pop(0)}} if self.waiting.get(queue) else {}


@pytest.fixture
def slot() -> RecordingSlot:
    return RecordingSlot()


@pytest.fixture
def agent(slot: RecordingSlot) -> StockAgent:
    module = ModuleType("worker")
    exec(FITTING, module.__dict__)
    agent = StockAgent("0", module, module.Worker, lambda: None)
    wrap(agent, slot, lambda: slot.queues_changed)
    return agent


def test_a_pull_reports_what_it_brought_and_the_end_of_the_task(agent: StockAgent, slot: RecordingSlot) -> None:
    response = agent.module.get_next_task(FakeSession(a=["t1"]), queue="a", get_task_info=False)
    assert response == {"entry": {"task": "t1"}}
    assert agent.worker().run_one_task("a", "t1", None, task_session=None) == 0
    assert slot.events == [("pulled", "t1", "a"), ("ended", True)]


def test_a_closed_gate_answers_as_an_empty_queue_does_and_asks_nobody(agent: StockAgent, slot: RecordingSlot) -> None:
    slot.closed = {1}
    session = FakeSession(a=["t1"])
    assert agent.module.get_next_task(session, queue="a") == FakeSession().pull("a")
    assert session.waiting == {"a": ["t1"]}
    assert slot.events == []


def test_a_pull_that_fails_gives_the_gate_back(agent: StockAgent, slot: RecordingSlot) -> None:
    session = FakeSession()
    session.error = ConnectionError("server away")
    with pytest.raises(ConnectionError):
        agent.module.get_next_task(session, queue="a")
    assert slot.events == [("pulled", None, "a")]


def test_a_task_that_raises_has_ended_but_not_returned(agent: StockAgent, slot: RecordingSlot) -> None:
    with pytest.raises(SystemExit):
        agent.worker().run_one_task("a", "bad", None)
    assert slot.events == [("ended", False)]


def test_a_gate_that_opens_in_the_middle_of_a_round_lets_no_lower_queue_overtake(
    agent: StockAgent, slot: RecordingSlot
) -> None:
    session = FakeSession(a=["first"], b=["second"], c=[])
    slot.closed = {4}  # one full round, then closed for "a" only
    assert [agent.module.get_next_task(FakeSession(), queue=queue) for queue in "abc"] == [{}, {}, {}]
    assert [agent.module.get_next_task(session, queue=queue) for queue in "abc"] == [{}, {}, {}]
    assert agent.module.get_next_task(session, queue="a") == {"entry": {"task": "first"}}
    assert agent.module.get_next_task(session, queue="a") == {}
    assert agent.module.get_next_task(session, queue="b") == {"entry": {"task": "second"}}


def test_an_agent_whose_queues_have_changed_ends_between_two_tasks_and_asks_for_none(
    agent: StockAgent, slot: RecordingSlot
) -> None:
    slot.queues_changed = True
    slot.closed = {1}
    session = FakeSession(a=["t1"])
    assert agent.module.get_next_task(session, queue="a") == {}, "behind a closed gate something of a task may live"
    with pytest.raises(QueuesChanged):
        agent.module.get_next_task(session, queue="a")
    assert session.waiting == {"a": ["t1"]}
    assert slot.events == [("pulled", None, None)], "the gate was not given back"


def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> StockAgent:
    """Load a ``clearml_agent`` that consists of this source."""
    package = tmp_path / "clearml_agent"
    (package / "commands").mkdir(parents=True)
    for path in (package / "__init__.py", package / "commands" / "__init__.py"):
        path.write_text("")
    (package / "__main__.py").write_text("def main():\n    return 0\n")
    (package / "commands" / "worker.py").write_text(source)
    for name in [name for name in sys.modules if name.partition(".")[0] == "clearml_agent"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        return load_stock_agent()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "clearml_agent"]:
            del sys.modules[name]


def test_an_agent_with_the_names_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(tmp_path, monkeypatch, FITTING).main() == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("def get_next_task", "def pull_task"), "has no get_next_task"),
        (("def run_one_task", "def run_task"), r"has no Worker\.run_one_task"),
        (("class Worker", "class Agent"), "has no class Worker"),
        (("(session, queue,", "(queue, session,"), r"get_next_task takes \(queue, session, get_task_info\)"),
        (("        get_next_task(None", "        get_batch(None"), "run_tasks_loop no longer calls get_next_task"),
        (("        self.run_one_task(", "        self.run_batch("), "run_tasks_loop no longer calls run_one_task"),
    ],
)
def test_an_agent_without_the_names_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], told: str
) -> None:
    assert change[0] in FITTING
    with pytest.raises(
        HostError, match=rf"clearml-agent .* does not fit: .*{told}.* Install a version from 1\.9 to 3\.0"
    ):
        load(tmp_path, monkeypatch, FITTING.replace(*change))


def test_an_agent_that_cannot_be_imported_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match=r"cannot be loaded .*pip install clearml-agent"):
        load(tmp_path, monkeypatch, "import no_such_module_here\n")


SETUP = AgentSetup(
    NodeIdentity("c", InstanceId("i-1"), NodeRole.WORKER, PoolName("gpu"), "g5.xlarge"),
    slot=1,
    slots=2,
    queues=("a", "b"),
    docker_image="nvidia/cuda",
    cpu_only=False,
    state_dir=Path("/nowhere"),
    gpus=4,
)


def test_the_worker_id_names_the_slot_where_there_are_several() -> None:
    assert SETUP.worker_id == "c:gpu:g5.xlarge:i-1:1"


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ([], ["--foreground", "--queue", "a", "b", "--docker", "nvidia/cuda", "--gpus", "2,3"]),
        (["--gpus", "0"], ["--foreground", "--queue", "a", "b", "--docker", "nvidia/cuda", "--gpus", "0"]),
        (
            ["--queue", "c", "--cpu-only"],
            ["--foreground", "--docker", "nvidia/cuda", "--queue", "c", "--cpu-only"],
        ),
        (
            ["--docker=x", "--foreground"],
            ["--queue", "a", "b", "--gpus", "2,3", "--docker=x", "--foreground"],
        ),
    ],
)
def test_options_of_the_node_stand_unless_others_are_given(given: list[str], options: list[str]) -> None:
    assert daemon_options(SETUP, given) == options


@pytest.mark.parametrize(
    ("docker_image", "gpus", "amd", "cpu_only"),
    [
        ("python:3.12", 0, False, True),  # `docker run --gpus all` fails there
        ("python:3.12", 0, True, False),
        ("python:3.12", 1, False, False),
        (None, 0, False, False),
    ],
)
def test_containers_ask_for_gpus_only_where_there_are_some(
    docker_image: str | None, gpus: int, amd: bool, cpu_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfd = tmp_path / "kfd"
    if amd:
        kfd.touch()
    monkeypatch.setattr(plugin, "AMD_GPUS", kfd)
    setup = replace(SETUP, slot=0, slots=1, docker_image=docker_image, gpus=gpus)
    assert ("--cpu-only" in daemon_options(setup, [])) is cpu_only


@pytest.mark.parametrize(
    ("gpus", "slots", "shares"),
    [
        (8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (4, 4, [[0], [1], [2], [3]]),
        (4, 3, [[0], [1], [2, 3]]),
        (1, 2, [[0], [0]]),
        (2, 4, [[0], [0], [1], [1]]),
    ],
)
def test_a_nodes_gpus_are_divided_among_its_slots(gpus: int, slots: int, shares: list[list[int]]) -> None:
    assert [list(gpus_of_slot(slot, slots, gpus)) for slot in range(slots)] == shares


@pytest.mark.parametrize(
    "option", ["--detached", "--services-mode=5", "--services", "--stop", "--dynamic-gpus", "--deta"]
)
def test_options_that_would_leave_the_gate_are_refused_with_a_reason(option: str) -> None:
    with pytest.raises(ConfigError, match=r"`scaler-sidecar agent` does not take --[a-z-]+: .+\."):
        refuse_options(["--queue", "a", option])


def test_a_slot_that_the_node_does_not_have_is_refused() -> None:
    setup = AgentSetup(SETUP.identity, 2, 2, (), None, True, Path("/nowhere"))
    with pytest.raises(ConfigError, match="There is no slot 2: this node has 2"):
        run_agent(setup, [])
