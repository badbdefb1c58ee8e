"""Machines that are not fit, on a local cloud of real processes: they end themselves, their pool pauses, and no task suffers."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaler_plugin.clearml_server.credentials import Credentials
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.coordination.events import Event
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.published_view import read_view
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.core.model import Node, NodeState, SlotState
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.world import World, WorldOptions

pytestmark = [pytest.mark.real, pytest.mark.slow]

QUEUE = "health-tasks"
TASKS = 3

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
        self._store = world.open_store()
        from scaler_plugin.clearml_server.session import DaemonSession  # noqa: PLC0415

        environment = world.clearml_environment()
        os.environ.update(environment)
        keys = (environment.get("CLEARML_API_ACCESS_KEY"), environment.get("CLEARML_API_SECRET_KEY"))
        self._session = DaemonSession(Credentials(environment["CLEARML_API_HOST"], *keys, "the environment"), 5.0)
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

    def until(self, condition: Callable[[], object], patience_s: float) -> None:
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < patience_s, (
                self.statuses(),
                self.workers(),
                self.problems(),
                read_events(self._store, self.world.keys),
            )
            time.sleep(0.2)

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
        with World(WorldOptions(config=config, boot_delay_s=0.0), Interruption()) as world:
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
    cluster.until(lambda: len(cluster.events("pool_paused")) == 1, 180)
    cluster.until(lambda: "pool cpu" in cluster.problems(), 10)
    problem = cluster.problems()["pool cpu"]
    assert "3 instances in a row did not start" in problem
    assert "The check data ended with exit code 2: ls: cannot access" in problem
    assert len(cluster.events("start_failed")) == TASKS, "each told once, by the machine itself"
    assert all(
        "ended itself" in event.sentence and "$ df -h" in event.detail for event in cluster.events("start_failed")
    )
    assert cluster.workers() == []
    assert cluster.statuses() == ["queued"] * TASKS

    # It is put right, and a configuration pushed: one machine is tried, and the rest follows.
    cluster.mark.touch()
    cluster.world.push_config(parse_yaml(CONFIG.format(mark=cluster.mark, maximum=TASKS + 1), "test"))
    cluster.until(lambda: cluster.statuses() == ["in_progress"] * TASKS, 120)
    assert len(cluster.events("pool_resumed")) == 1
    assert "pool cpu" not in cluster.problems()

    # The file goes while tasks run: no further task, and none disturbed.
    cluster.mark.unlink()
    cluster.until(lambda: all(node.state is NodeState.DRAINING for node in cluster.workers()), 30)
    assert all("The check data" in node.reason for node in cluster.workers())
    assert all(slot.state is SlotState.BUSY for node in cluster.workers() for slot in node.slots)
    cluster.go.touch()
    cluster.until(lambda: cluster.statuses() == ["completed"] * TASKS, 60)
    cluster.until(lambda: not cluster.workers(), 60)
    retired = [event.sentence for event in cluster.events("retired")]
    assert len(retired) >= TASKS
    assert all("Unfit: The check data" in sentence for sentence in retired)
