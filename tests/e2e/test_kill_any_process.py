"""Any one process of a running cluster dies, or a server is away for half a minute: no task is lost, no instance stays.

Each test plays on a local cloud of its own with real processes. What is claimed is read from what the servers recorded:
the tasks' statuses from ClearML, launches and ends of instances from EC2.
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
from scaler_plugin.localcloud.demo.tasks import DemoTasks
from scaler_plugin.localcloud.demo.watcher import Watcher
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.machines.folder import SIDECAR
from scaler_plugin.localcloud.world import CLEARML, EC2, ETCD, World, WorldOptions

pytestmark = [pytest.mark.real, pytest.mark.slow]

TASKS = 3
IDLE_TIMEOUT_S = 4.0
OUTAGE_S = 30.0
#: From "idle long enough" to "terminated": noticing it, an orderly shutdown, and a host on which everything runs at once.
ENDING_S = 40.0
#: For the whole story of one test, the outage and a rescue of a stranded task included.
PATIENCE_S = 240.0


class Cluster:
    """A world with one standby sidecar and some tasks, watched from outside."""

    def __init__(self, world: World, task_seconds: int) -> None:
        self.world = world
        self.began = time.time()
        self.standby = world.start_standby()
        self.tasks = DemoTasks(world.clearml_environment())
        queues = [queue for pool in world.config.pools for queue in pool.queues]
        self.tasks.enqueue(TASKS, queues, task_seconds)
        self._watcher = Watcher(world.open_store(), world.keys, world.ec2_client(), self.tasks.look, self.began, 0.5)
        self.scene = Scene(0.0)
        self.tasks_over_s: float | None = None

    def until(self, condition: Callable[[Scene], bool], patience_s: float = PATIENCE_S) -> Scene:
        deadline = time.monotonic() + patience_s
        while True:
            self.scene = self._watcher.look()
            if self.tasks_over_s is None and all_done(self.scene):
                self.tasks_over_s = self.scene.at_s
            if condition(self.scene):
                return self.scene
            assert time.monotonic() < deadline, f"it did not happen; the last scene was {self.scene}"
            time.sleep(0.2)

    def unit(self, node: str, unit: str) -> int:
        """The process id of a node's sidecar or agent."""
        assert self.world.machines is not None
        report = next((r for r in self.world.machines.reports() if r.name == node), self.standby.report)
        return report.units[unit]

    def worker(self) -> str:
        """A node that runs a task and does not lead."""
        leader = self.scene.leader
        return next(
            n.instance_id for n in self.scene.nodes if n.busy and (leader is None or n.instance_id != leader.node)
        )

    def must_end_well(self, most_instances: int = TASKS) -> None:
        """Every task completed; no more instances than that; each ended soon after its last task."""
        end = self.until(lambda scene: all_done(scene) and scene.over and not scene.away)
        assert [task.status for task in end.tasks] == ["completed"] * TASKS
        assert not any(task.lost for task in end.tasks)
        assert len(end.instances) <= most_instances
        assert self.tasks_over_s is not None
        for instance in end.instances:
            assert instance.ended_s is not None
            assert instance.ended_s - self.tasks_over_s < IDLE_TIMEOUT_S + ENDING_S, instance


def all_done(scene: Scene) -> bool:
    return bool(scene.tasks) and all(task.status in DONE for task in scene.tasks)


def all_run(scene: Scene) -> bool:
    """Every task runs, and etcd knows of it: so there is a node that does not lead and is busy."""
    busy = [node for node in scene.nodes if any(slot.state is SlotState.BUSY for slot in node.slots)]
    return scene.leader is not None and len(busy) == TASKS and all(t.status == "in_progress" for t in scene.tasks)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Cluster]]:
    folder = Path(tempfile.mkdtemp(prefix="kill-", dir="/tmp"))
    environment = dict(os.environ)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    config = default_config(times=DefaultTimes(idle_timeout=f"{IDLE_TIMEOUT_S:g}s"))
    with World(WorldOptions(config=config, boot_delay_s=0.0), Interruption()) as world:
        yield lambda task_seconds: Cluster(world, task_seconds)
    assert list(folder.iterdir()) == []
    shutil.rmtree(folder)
    os.environ.clear()
    os.environ.update(environment)


def test_a_worker_whose_sidecar_is_killed_goes_on(cluster: Callable[[int], Cluster]) -> None:
    played = cluster(8)
    played.until(all_run)
    os.kill(played.unit(played.worker(), SIDECAR), signal.SIGKILL)

    played.must_end_well()


def test_a_killed_leader_is_followed_by_another(cluster: Callable[[int], Cluster]) -> None:
    played = cluster(8)
    leader = played.until(all_run).leader
    assert leader is not None
    os.kill(played.unit(leader.node, SIDECAR), signal.SIGKILL)
    played.until(lambda scene: scene.leader is not None and scene.leader.term > leader.term, 30)

    played.must_end_well()


def test_a_killed_agent_loses_no_task(cluster: Callable[[int], Cluster]) -> None:
    """Nobody can say any more how its task ended, so that is put back into its queue, and may need an instance once more."""
    played = cluster(8)
    played.until(all_run)
    os.kill(played.unit(played.worker(), "agent-0"), signal.SIGKILL)

    played.must_end_well(most_instances=TASKS + 1)


def test_an_instance_that_somebody_terminates_loses_no_task(cluster: Callable[[int], Cluster]) -> None:
    """The system shuts down in order; that must not make the task look as if a person had aborted it."""
    played = cluster(8)
    played.until(all_run)
    worker = played.worker()
    played.world.ec2_client().terminate_instances(InstanceIds=[worker])

    played.must_end_well(most_instances=TASKS + 1)


@pytest.mark.parametrize("server", [ETCD, EC2, CLEARML])
def test_a_server_may_be_away_for_half_a_minute(server: str, cluster: Callable[[int], Cluster]) -> None:
    """The tasks end while it is away, and so does the time for which nodes may idle."""
    played = cluster(8)
    played.until(all_run)
    played.world.parts.outage(server, OUTAGE_S)
    played.until(lambda scene: bool(scene.away), 10)

    played.must_end_well()
