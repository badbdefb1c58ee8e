"""Any one process of a running cluster dies, or a server is away for half a minute: no task is lost, no instance stays.

Each test plays on a local cloud of its own with real processes. Its tasks run until what is done to the cluster has had its effect.
What is claimed is read from what the servers recorded: the tasks' statuses from ClearML, launches and ends of instances from EC2.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaler_plugin.core.model import SlotState
from scaler_plugin.localcloud.default_config import DefaultTimes, default_config
from scaler_plugin.localcloud.demo.scene import DONE, Scene
from scaler_plugin.localcloud.demo.watcher import Watcher
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.machines.folder import SIDECAR
from scaler_plugin.localcloud.world import CLEARML, EC2, ETCD, World, WorldOptions

from ..waiting import STARTING_S, until
from .held_tasks import HeldTasks

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

TASKS = 3
IDLE_TIMEOUT_S = 4.0
OUTAGE_S = 30.0
#: For the whole story of one test, the outage and a rescue of a stranded task included.
PATIENCE_S = 240.0


class Cluster:
    """A world with one standby sidecar and some tasks, watched from outside."""

    def __init__(self, world: World, release: Path) -> None:
        self.world = world
        self.standby = world.start_standby()
        self.store = world.open_store()
        self.tasks = HeldTasks(world.clearml_environment(), release)
        queues = [queue for pool in world.config.pools for queue in pool.queues]
        self.tasks.enqueue(TASKS, queues)
        self._watcher = Watcher(self.store, world.keys, world.ec2_client(), self.tasks.look, time.time(), 0.5)
        self.scene = Scene(0.0)
        self.tasks_over_s: float | None = None
        self.until(all_run, "every task runs on a node of its own")

    def until(self, condition: Callable[[Scene], bool], what: str) -> Scene:
        def holds() -> bool:
            self.scene = self._watcher.look()
            if self.tasks_over_s is None and all_done(self.scene):
                self.tasks_over_s = self.scene.at_s
            return condition(self.scene)

        until(holds, what, PATIENCE_S, seen=lambda: self.scene, every_s=0.2)
        return self.scene

    def unit(self, node: str, unit: str) -> int | None:
        """The process id of a node's sidecar or agent, while it runs."""
        assert self.world.machines is not None
        report = next((r for r in self.world.machines.reports() if r.name == node), self.standby.report)
        return report.units.get(unit)

    def kill(self, node: str, unit: str) -> None:
        """SIGKILL, and wait until the machine has started it again."""
        killed = until(lambda: self.unit(node, unit), f"{unit} of {node} runs", STARTING_S)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        until(lambda: self.unit(node, unit) not in (None, killed), f"{unit} of {node} runs again", STARTING_S)

    def worker(self) -> str:
        """A node that runs a task and does not lead."""
        leader = self.scene.leader
        return next(
            n.instance_id for n in self.scene.nodes if n.busy and (leader is None or n.instance_id != leader.node)
        )

    def must_end_well(self, most_instances: int = TASKS) -> None:
        """Let go, every task completes; there were no more instances than that, and each has ended."""
        self.tasks.let_go()
        end = self.until(lambda scene: all_done(scene) and scene.over and not scene.away, "everything is over")
        assert [task.status for task in end.tasks] == ["completed"] * TASKS
        assert not any(task.lost for task in end.tasks)
        assert len(end.instances) <= most_instances
        assert self.tasks_over_s is not None
        for instance in end.instances:
            assert instance.ended_s is not None
            print(f"{instance.id} ended {instance.ended_s - self.tasks_over_s:.1f} s after the last task")

    def close(self) -> None:
        self.tasks.close()
        self.store.close()


def all_done(scene: Scene) -> bool:
    return bool(scene.tasks) and all(task.status in DONE for task in scene.tasks)


def all_run(scene: Scene) -> bool:
    """Every task runs, and etcd knows of it: so there is a node that does not lead and is busy."""
    busy = [node for node in scene.nodes if any(slot.state is SlotState.BUSY for slot in node.slots)]
    return scene.leader is not None and len(busy) == TASKS and all(t.status == "in_progress" for t in scene.tasks)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="kill-", dir="/tmp"))
    environment = dict(os.environ)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    config = default_config(times=DefaultTimes(idle_timeout=f"{IDLE_TIMEOUT_S:g}s"))
    try:
        with World(WorldOptions(config=config, boot_delay_s=0.0), Interruption()) as world:
            cluster = Cluster(world, tmp_path / "release")
            yield cluster
            cluster.close()
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)
        os.environ.clear()
        os.environ.update(environment)


def test_a_worker_whose_sidecar_is_killed_goes_on(played: Cluster) -> None:
    played.kill(played.worker(), SIDECAR)

    played.must_end_well()


def test_a_killed_leader_is_followed_by_another(played: Cluster) -> None:
    leader = played.scene.leader
    assert leader is not None
    pid = played.unit(leader.node, SIDECAR)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    played.until(lambda scene: any(term.term > leader.term for term in scene.terms), "another leads")

    played.must_end_well()


def test_a_killed_agent_loses_no_task(played: Cluster) -> None:
    """Nobody can say any more how its task ended, so that is put back into its queue, and may need an instance once more."""
    played.kill(played.worker(), "agent-0")

    played.must_end_well(most_instances=TASKS + 1)


def test_an_instance_that_somebody_terminates_loses_no_task(played: Cluster) -> None:
    """The system shuts down in order; that must not make the task look as if a person had aborted it."""
    worker = played.worker()
    played.world.ec2_client().terminate_instances(InstanceIds=[worker])
    played.until(
        lambda scene: any(i.id == worker and i.state == "terminated" for i in scene.instances), "the instance is gone"
    )

    played.must_end_well(most_instances=TASKS + 1)


@pytest.mark.parametrize("server", [ETCD, EC2, CLEARML])
def test_a_server_may_be_away_for_half_a_minute(server: str, played: Cluster) -> None:
    """The tasks end while it is away, and so does the time for which nodes may idle."""
    played.world.parts.outage(server, OUTAGE_S)

    played.must_end_well()
    assert played.world.parts.running(server)
