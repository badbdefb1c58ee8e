"""A cluster is taken down while its real sidecars and leader live: nobody loses a task, and what idles ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import structlog

from scaler_plugin.bootstrapping.activity import NodeRecords
from scaler_plugin.bootstrapping.teardown import Ending, TearDown
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.coordination.requests import read_all_requests
from scaler_plugin.core.model import Instance, InstanceId, InstanceState, NodeRole, QueueName, TaskStatus
from scaler_plugin.errors import CloudError, CloudRefused
from scaler_plugin.simulation.world import World

QUEUE = QueueName("training")


def config(least: int) -> str:
    return f"""
cluster: simulated
pools:
  - name: gpu
    queues: [{QUEUE}]
    instance_types: [g5.xlarge]
    ami: ami-1234
    min_instances: {least}
    max_instances: 4
    idle_timeout: 2h
    startup_timeout: 5m
"""


class Stack:
    """CloudFormation: once deletion has begun there are no launch templates, and it fails while an instance uses the rest."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.attempts = 0

    def delete(self) -> bool:
        self.attempts += 1
        fleet = self._world.fleet
        alive = [instance for instance in fleet.instances() if not instance.state.ending]
        fleet.faults.account_limit = len(alive)
        if alive:
            raise CloudRefused("NodeSecurityGroup is in use", "DELETE_FAILED")
        return True


class DistantFleet:
    """EC2 from an administrator's desk: calls take a while, in which agents go on pulling."""

    def __init__(self, world: World) -> None:
        self._world = world

    def instances(self) -> tuple[Instance, ...]:
        listed = self._world.fleet.instances()
        self._pass()
        return listed

    def terminate(self, instance_ids: Sequence[InstanceId]) -> None:
        self._pass()
        self._world.fleet.terminate(instance_ids)

    def _pass(self) -> None:
        self._world.run_until(self._world.clock.monotonic() + 2.0)


class Scene:
    def __init__(self, least: int = 0) -> None:
        self.world = World(
            parse_yaml(config(least), "test"), 1, boot_s=30.0, step_s=1.0, node_ttl_s=30, agent_poll_s=5.0
        )
        self.store = self.world.store.client("administrator")
        self.stack = Stack(self.world)
        self.said: list[str] = []

    def live(self, seconds: float) -> None:
        self.world.run_until(self.world.clock.monotonic() + seconds)

    def until(self, holds: Callable[[], bool], within_s: float = 900.0) -> None:
        end = self.world.clock.monotonic() + within_s
        while not holds():
            assert self.world.clock.monotonic() < end, self.world.notes[-30:]
            self.live(0.5)

    def alive(self) -> list[InstanceId]:
        return [i.instance_id for i in self.world.fleet.instances() if not i.state.ending]

    def take_down(self, ending: Ending) -> bool:
        stack: Any = self.stack
        fleet: Any = DistantFleet(self.world)
        records = NodeRecords(lambda: self.store, self.world.keys)
        return TearDown("simulated", stack, fleet, records, self.said.append, self.live).run(ending)

    def refusal(self, ending: Ending) -> str:
        with pytest.raises(CloudError) as refused:
            self.take_down(ending)
        return str(refused.value)

    def idle_worker(self) -> InstanceId:
        task = self.world.submit(QUEUE, 5.0)
        self.until(lambda: self.world.server.task(task).status is TaskStatus.COMPLETED)
        self.until(lambda: not any(node.busy for node in read_nodes(self.store, self.world.keys)))
        [instance] = self.alive()
        return instance

    def busy_worker(self, task_s: float) -> tuple[InstanceId, Any]:
        task = self.world.submit(QUEUE, task_s)
        self.until(lambda: any(node.busy for node in read_nodes(self.store, self.world.keys)))
        [instance] = self.alive()
        return instance, task


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


def test_with_nothing_up_the_stack_goes_at_once() -> None:
    scene = Scene()
    scene.live(10)
    assert scene.take_down(Ending.NOTHING)


def test_an_idle_worker_stops_it_until_told_and_then_ends_by_its_own_gate() -> None:
    scene = Scene()
    worker = scene.idle_worker()
    refusal = scene.refusal(Ending.NOTHING)
    assert f"Nothing was deleted: 1 instance of cluster simulated runs ({worker}), and no task runs on it." in refusal
    assert "Give --terminate" in refusal
    assert (scene.stack.attempts, read_all_requests(scene.store, scene.world.keys)) == (0, ())
    assert scene.take_down(Ending.IDLE_ONES)
    assert scene.said[0] == f"Asking {worker} to end."
    assert scene.alive() == []
    assert (scene.stack.attempts, scene.world.broken) == (1, [])


@pytest.mark.parametrize("ending", [Ending.NOTHING, Ending.IDLE_ONES])
def test_a_task_that_runs_stops_it_with_its_name_and_nothing_is_touched(ending: Ending) -> None:
    scene = Scene()
    worker, task = scene.busy_worker(300.0)
    refusal = scene.refusal(ending)
    assert f"and 1 task runs there: {task} on {worker} (pool gpu)." in refusal
    assert "--terminate --kill-tasks" in refusal
    assert (scene.stack.attempts, read_all_requests(scene.store, scene.world.keys)) == (0, ())
    scene.until(lambda: scene.world.server.task(task).status is TaskStatus.COMPLETED)
    scene.live(10)
    assert scene.take_down(Ending.IDLE_ONES)


def test_told_to_kill_tasks_it_does() -> None:
    scene = Scene()
    _, task = scene.busy_worker(3000.0)
    assert scene.take_down(Ending.ALL)
    assert scene.alive() == []
    assert scene.world.server.task(task).status is not TaskStatus.COMPLETED


@pytest.mark.parametrize("after_s", [0.5 * step for step in range(30)])
def test_a_task_that_comes_while_idle_workers_are_asked_to_end_is_never_killed(after_s: float) -> None:
    scene = Scene()
    scene.idle_worker()
    submitted: list[Any] = []
    began = scene.world.clock.monotonic()

    def somebody_enqueues(world: World) -> None:
        if not submitted and world.clock.monotonic() - began >= after_s:
            submitted.append(world.submit(QUEUE, 60.0))

    scene.world.watchers.append(somebody_enqueues)
    with suppress(CloudRefused):
        scene.take_down(Ending.IDLE_ONES)
    if not submitted:
        return
    scene.live(600)
    assert scene.world.broken == []
    task = scene.world.server.task(submitted[0])
    # Done, or it waits in its queue for a cluster to come; nothing put it back, for nothing ever held it in vain.
    assert task.status in (TaskStatus.COMPLETED, TaskStatus.QUEUED)
    assert task.requeues == 0


def test_a_pool_with_a_minimum_whose_workers_are_replaced_goes_too() -> None:
    scene = Scene(least=2)
    scene.until(lambda: len(read_nodes(scene.store, scene.world.keys)) == 3)
    scene.live(60)
    assert scene.take_down(Ending.IDLE_ONES)
    assert scene.alive() == []
    assert scene.world.broken == []
    assert scene.stack.attempts > 1


@pytest.mark.parametrize("ending", [Ending.NOTHING, Ending.IDLE_ONES])
def test_what_nobody_can_tell_counts_as_a_task(ending: Ending) -> None:
    scene = Scene()
    worker = scene.idle_worker()
    scene.store.partition()
    refusal = scene.refusal(ending)
    assert f"Whether a task runs on {worker} is not known: " in refusal
    scene.store.heal()
    scene.world.machines[worker].store_client.partition()
    scene.until(lambda: worker not in {node.instance_id for node in read_nodes(scene.store, scene.world.keys)})
    assert "it is not registered in etcd" in scene.refusal(ending)
    assert scene.stack.attempts == 0
    assert scene.take_down(Ending.ALL)


def test_a_probe_alone_needs_no_etcd_to_be_ended() -> None:
    world = World(parse_yaml(config(0), "test"), 1, boot_s=30.0, probe_every_s=60.0)
    world.run_until(70.0)
    [probe] = world.fleet.instances()
    assert probe.role is NodeRole.PROBE

    def no_etcd() -> Any:
        raise AssertionError("etcd was asked")

    def live(seconds: float) -> None:
        world.run_until(world.clock.monotonic() + seconds)

    stack: Any = Stack(world)
    taking_down = TearDown("simulated", stack, world.fleet, NodeRecords(no_etcd, world.keys), lambda _: None, live)
    with pytest.raises(CloudRefused, match="and no task runs on it"):
        taking_down.run(Ending.NOTHING)
    assert taking_down.run(Ending.IDLE_ONES)
    assert {instance.state for instance in world.fleet.instances()} == {InstanceState.TERMINATED}
