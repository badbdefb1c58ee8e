"""Machines that are not fit, on a local cloud of real processes: they end themselves, their pool pauses, and no task suffers."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from scaler_plugin.clearml_server.credentials import Credentials
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.events import Event
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.published_view import read_view
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.core.model import Node, NodeState, SlotState
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.world import World, WorldOptions

from ..waiting import PATIENCE_S, until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

T = TypeVar("T")

QUEUE = "health-tasks"
TASKS = 3
#: Machines start, and fail, and start again.
BOOTS_S = 240.0

CONFIG = """
cluster: health
poll_interval: 1s
leader_ttl: 5s
pools:
  - name: cpu
    queues: [health-tasks]
    instance_types: [c5.large]
    ami: ami-0123456789abcdef0
    max_instances: {maximum}
    idle_timeout: 5m
    cpu_only: true
    checks:
      - {{name: data, command: "ls {mark}", every: 5s, timeout: 5s}}
"""

TASK = """\
import time
from pathlib import Path
while not Path({go!r}).exists():
    time.sleep(0.1)
"""


class Cluster:
    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.mark, self.go = folder / "data", folder / "go"
        # Not before etcd's client: clearml loads protobuf in a way that etcd3 cannot use.
        self._store = open_store(world.address.etcd.endpoints, timeout_s=PATIENCE_S)
        from scaler_plugin.clearml_server.session import DaemonSession  # noqa: PLC0415

        environment = world.clearml_environment()
        os.environ.update(environment)
        keys = (environment.get("CLEARML_API_ACCESS_KEY"), environment.get("CLEARML_API_SECRET_KEY"))
        self._session = DaemonSession(
            Credentials(environment["CLEARML_API_HOST"], *keys, "the environment"), PATIENCE_S
        )
        self.tasks: list[str] = []

    def enqueue(self) -> None:
        diff = TASK.format(go=str(self.go))
        script = {"binary": "python3", "repository": "", "entry_point": "wait.py", "working_dir": ".", "diff": diff}
        created = self._session.call("tasks.create", {"name": "wait", "type": "training", "script": script})
        self._session.call("tasks.enqueue", {"task": created["id"], "queue_name": QUEUE})
        self.tasks.append(created["id"])

    def statuses(self) -> list[str]:
        answer = self._session.call("tasks.get_all", {"id": self.tasks, "only_fields": ["status"]})
        return [task["status"] for task in answer["tasks"]]

    def workers(self) -> list[Node]:
        return [node for node in read_nodes(self._store, self.world.keys) if node.pool == "cpu"]

    def events(self, kind: str) -> list[Event]:
        return [event for event in read_events(self._store, self.world.keys) if event.kind == kind]

    def problems(self) -> dict[str, str]:
        view = read_view(self._store, self.world.keys)
        return {problem.about: problem.what for problem in view.problems} if view else {}

    def until(self, what: str, condition: Callable[[], T]) -> T:
        def seen() -> object:
            return self.statuses(), self.workers(), self.problems(), read_events(self._store, self.world.keys)

        return until(condition, what, BOOTS_S, seen=seen, every_s=0.2)

    def leaving(self) -> list[Node]:
        """The nodes, once every task has one that takes no other."""
        nodes = self.workers()
        slots = [slot for node in nodes for slot in node.slots]
        drain = all(node.state is NodeState.DRAINING for node in nodes)
        return nodes if drain and [slot.state for slot in slots] == [SlotState.BUSY] * TASKS else []

    def close(self) -> None:
        self._session.close()
        self._store.close()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="health-", dir="/tmp"))
    environment = dict(os.environ)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    config = parse_yaml(CONFIG.format(mark=folder / "data", maximum=TASKS), "test")
    try:
        # The check's own words are part of what is told.
        with World(
            WorldOptions(config=config, boot_delay_s=0.0), Interruption(), {**os.environ, "LC_ALL": "C"}
        ) as world:
            made = Cluster(world, folder)
            world.start_standby()
            yield made
            made.close()
    finally:
        os.environ.clear()
        os.environ.update(environment)
        shutil.rmtree(folder)


def test_unfit_machines_pause_their_pool_a_correction_ends_it_and_an_ailment_later_lets_tasks_finish(
    cluster: Cluster,
) -> None:
    for _ in range(TASKS):
        cluster.enqueue()
    # The check's file is missing: every machine gives up at its gate.
    cluster.until("the pool pauses", lambda: cluster.events("pool_paused"))
    cluster.until("the view says so", lambda: "pool cpu" in cluster.problems())
    problem = cluster.problems()["pool cpu"]
    # One that replaced the first to fail may have been on its way.
    assert re.search(r"\b[3-9] instances in a row did not start", problem)
    assert "The check data ended with exit code 2: ls: cannot access" in problem
    failed = cluster.events("start_failed")
    assert len(failed) >= TASKS
    assert len({event.about for event in failed}) == len(failed), "each told once, by the machine itself"
    assert all("ended itself" in event.sentence and "$ df -h" in event.detail for event in failed)
    cluster.until("no node is left", lambda: not cluster.workers())
    assert cluster.statuses() == ["queued"] * TASKS
    assert len(cluster.events("pool_paused")) == 1

    # It is put right, and a configuration pushed: one machine is tried, and the rest follows.
    cluster.mark.touch()
    cluster.world.push_config(parse_yaml(CONFIG.format(mark=cluster.mark, maximum=TASKS + 1), "test"))
    cluster.until("all tasks run", lambda: cluster.statuses() == ["in_progress"] * TASKS)
    cluster.until("the pool goes on", lambda: cluster.events("pool_resumed"))
    cluster.until("the view says so", lambda: "pool cpu" not in cluster.problems())

    # The file goes while tasks run: no further task, and none disturbed.
    cluster.mark.unlink()
    leaving = cluster.until("every node with a task leaves", cluster.leaving)
    assert all("The check data" in node.reason for node in leaving)
    cluster.go.touch()
    cluster.until("all tasks are done", lambda: cluster.statuses() == ["completed"] * TASKS)
    cluster.until("no node is left", lambda: not cluster.workers())
    cluster.until("every node has said why", lambda: len(cluster.events("retired")) >= TASKS)
    assert all("Unfit: The check data" in event.sentence for event in cluster.events("retired"))
    assert len(cluster.events("pool_resumed")) == 1
