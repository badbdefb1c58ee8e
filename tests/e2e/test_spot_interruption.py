"""EC2 takes a spot instance while the real agent runs a task on it: the task saves its state, goes back, and resumes elsewhere.

Real processes on a local cloud. What is claimed is read from what the task itself has written, from ClearML and from EC2.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.clearml_server.credentials import Credentials
from scaler_plugin.clearml_server.requeue_count import requeues_in
from scaler_plugin.cloud.metadata import SpotInterruption
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.events import Event
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.handbacks import read_handbacks
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.core.model import Node, NodeState, TaskId
from scaler_plugin.localcloud.imds import read_facts, write_facts
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.world import World, WorldOptions

from ..waiting import PATIENCE_S, until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

#: How many steps are left for the second run.
STEPS_LEFT = 3
#: For a boot, a task's start or the whole of a handing back.
LONG_S = 240.0
QUEUE = "spot-tasks"

CONFIG = """
cluster: spot
poll_interval: 1s
leader_ttl: 5s
pools:
  - name: spot
    queues: [{queue}]
    instance_types: [g5.xlarge]
    ami: ami-0123456789abcdef0
    market: spot
    max_instances: 3
    idle_timeout: 4s
    cpu_only: true
{more}"""

#: Counts a step a second, each of them written down with process id and time: for ever, so that it never ends before it is
#: interrupted. Where something was saved it resumes after that, and has some steps left.
TASK = """\
import os, signal, sys, time
from pathlib import Path

folder = Path({folder!r})

def save(*_):
    (folder / "saved.new").write_text(str(step))
    (folder / "saved.new").replace(folder / "saved")

saved = folder / "saved"
step = int(saved.read_text()) if saved.exists() else 0
last = step + {left} if saved.exists() else float("inf")
(folder / "pid").write_text(str(os.getpid()))
{prepare}
while step < last:
    time.sleep(1)
    step += 1
    with (folder / "steps").open("a") as steps:
        steps.write(f"{{os.getpid()}} {{step}} {{time.time()}}\\n")
"""

#: The hook tells the task by a signal, and waits until it has saved.
HOOK = """
    on_interruption: |
      echo "$SCALER_TASK_ID $SCALER_ACTION" > {folder}/told
      kill -USR1 $(cat {folder}/pid)
      while [ ! -e {folder}/saved ]; do sleep 0.1; done
      date +%s.%N > {folder}/hook-ended
    on_interruption_timeout: 20s
"""


class Cluster:
    """A world with one task on a spot instance."""

    def __init__(self, world: World, notebook: Path, prepare: str) -> None:
        self.world = world
        self.notebook = notebook
        # Not before etcd's client: clearml loads protobuf in a way that etcd3 cannot use.
        self._store = open_store(world.address.etcd.endpoints, timeout_s=PATIENCE_S)
        from scaler_plugin.clearml_server.session import DaemonSession  # noqa: PLC0415

        environment = world.clearml_environment()
        os.environ.update(environment)
        keys = (environment.get("CLEARML_API_ACCESS_KEY"), environment.get("CLEARML_API_SECRET_KEY"))
        self._session = DaemonSession(
            Credentials(environment["CLEARML_API_HOST"], *keys, "the environment"), PATIENCE_S
        )
        world.start_standby()
        diff = TASK.format(folder=str(notebook), prepare=prepare, left=STEPS_LEFT)
        script = {"binary": "python3", "repository": "", "entry_point": "count.py", "working_dir": ".", "diff": diff}
        created = self._session.call("tasks.create", {"name": "count", "type": "training", "script": script})
        self.task = TaskId(created["id"])
        self._session.call("tasks.enqueue", {"task": self.task, "queue_name": QUEUE})

    def status(self) -> dict[str, Any]:
        fields = ["status", "system_tags", "status_message", "status_reason"]
        answer = self._session.call("tasks.get_all", {"id": [self.task], "only_fields": fields})
        found: dict[str, Any] = answer["tasks"][0]
        return found

    def requeues(self) -> int:
        return requeues_in(tuple(self.status().get("system_tags") or ()), self.task)

    def workers(self) -> list[Node]:
        return [node for node in read_nodes(self._store, self.world.keys) if node.pool == "spot"]

    def events(self) -> tuple[Event, ...]:
        return read_events(self._store, self.world.keys)

    def promises(self) -> int:
        return len(read_handbacks(self._store, self.world.keys))

    def steps(self) -> list[tuple[int, int, float]]:
        """Process id, step and time of each step that was made."""
        path = self.notebook / "steps"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), int(step), float(at)) for pid, step, at in map(str.split, lines)]

    def interrupt(self, node: Node) -> float:
        """EC2's two minutes for this node begin."""
        facts = self.world.folder / "machines" / node.instance_id / "facts.json"
        now = time.time()
        write_facts(facts, replace(read_facts(facts), spot_interruption=SpotInterruption("terminate", now + 120.0)))
        return now

    def until(self, what: str, condition: Callable[[], object]) -> float:
        """When it was seen."""

        def seen() -> object:
            return self.status(), self.workers(), self.events(), self.steps()

        until(condition, what, LONG_S, seen=seen, every_s=0.1)
        return time.time()

    def told(self, kind: str) -> list[Event]:
        return [event for event in self.events() if event.kind == kind]

    def state(self, node: Node) -> NodeState | None:
        return next((other.state for other in self.workers() if other.instance_id == node.instance_id), None)

    def close(self) -> None:
        self._session.close()
        self._store.close()


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    folder = Path(tempfile.mkdtemp(prefix="spot-", dir="/tmp"))
    environment = dict(os.environ)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    notebook = folder / "notebook"
    notebook.mkdir()

    def start(prepare: str, more: str = "") -> Cluster:
        config = parse_yaml(CONFIG.format(queue=QUEUE, more=more.format(folder=notebook)), "test")
        world = worlds.enter_context(World(WorldOptions(config=config, boot_delay_s=0.0), Interruption()))
        return worlds.enter_context(closing(Cluster(world, notebook, prepare)))

    try:
        with ExitStack() as worlds:
            yield start
    finally:
        os.environ.clear()
        os.environ.update(environment)
        shutil.rmtree(folder)


def run_until_interrupted(cluster: Cluster) -> tuple[Node, float]:
    cluster.until("the task counts", lambda: len(cluster.steps()) >= 2)
    [node] = cluster.workers()
    return node, cluster.interrupt(node)


def must_have_resumed(cluster: Cluster, node: Node) -> None:
    """The task ran in two processes, never both at once; the second went on where the first had saved, and came to its end."""
    cluster.until("the task completes", lambda: cluster.status()["status"] == "completed")
    steps = cluster.steps()
    first, second = dict.fromkeys(pid for pid, _, _ in steps)
    saved = int((cluster.notebook / "saved").read_text())
    assert [step for pid, step, _ in steps if pid == second] == [saved + 1 + n for n in range(STEPS_LEFT)]
    assert max(at for pid, _, at in steps if pid == first) < min(at for pid, _, at in steps if pid == second)
    assert cluster.requeues() == 1
    cluster.until("every promise is kept", lambda: cluster.promises() == 0)
    # Its system may still shut down when the task has ended elsewhere.
    cluster.until("the instance that EC2 takes leaves", lambda: cluster.state(node) in (None, NodeState.RETIRING))
    cluster.until("no node is left", lambda: not cluster.workers())


def test_the_hook_lets_the_task_save_its_state_and_it_resumes_on_another_instance(play: Callable[..., Cluster]) -> None:
    cluster = play("signal.signal(signal.SIGUSR1, save)", HOOK)
    node, noticed_at = run_until_interrupted(cluster)

    cluster.until("the notice is known", lambda: cluster.told("interrupted"))
    back_at = cluster.until("the task is back in its queue", lambda: cluster.requeues() == 1)

    hook_ended_at = float((cluster.notebook / "hook-ended").read_text())
    assert (cluster.notebook / "told").read_text().split() == [cluster.task, "terminate"]
    (interrupted,) = cluster.told("interrupted")
    assert interrupted.about == node.instance_id
    print(f"closed after {interrupted.at - noticed_at:.1f} s, back {back_at - hook_ended_at:.1f} s after the hook")
    must_have_resumed(cluster, node)
    cluster.until("all of it is told", lambda: all(map(cluster.told, ("hook_ended", "task_handed_back"))))


def test_the_tasks_own_abort_callback_saves_its_state(play: Callable[..., Cluster]) -> None:
    prepare = (
        "from clearml import Task\n"
        "Task.init(project_name='spot', task_name='count').register_abort_callback(save, callback_execution_timeout=20.0)"
    )
    cluster = play(prepare)
    node, _ = run_until_interrupted(cluster)

    cluster.until("the task is back in its queue", lambda: cluster.requeues() == 1)

    must_have_resumed(cluster, node)
    assert not cluster.told("hook_failed")
