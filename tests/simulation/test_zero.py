"""Life from zero by the probe: no machine of ours is up, and a task is run all the same; nothing is left afterwards."""

from __future__ import annotations

import pytest

from scaler_plugin.config.load import parse_yaml
from scaler_plugin.core.model import InstanceId, NodeRole, QueueName, TaskId, TaskStatus
from scaler_plugin.simulation.invariants import Watch, check_end
from scaler_plugin.simulation.world import World

EVERY_S = 300.0
BOOT_S = 60.0
CONFIG = """
cluster: simulated
leader_ttl: 10s
poll_interval: 2s
zero: {mode: probe, probe_every: 5m}
pools:
  - {name: cpu, queues: [cpu-tasks], instance_types: [c5.large], ami: ami-1234, max_instances: 2, idle_timeout: 2m}
"""
QUEUE = QueueName("cpu-tasks")


def make_world(config: str = CONFIG, seed: int = 1) -> World:
    world = World(parse_yaml(config, "test"), seed, boot_s=BOOT_S, step_s=1.0, probe_every_s=EVERY_S)
    world.watchers.append(Watch(world).check)
    return world


def now(world: World) -> float:
    return world.clock.monotonic()


def status(world: World, task_id: TaskId) -> TaskStatus:
    return next(task.status for task in world.server.tasks() if task.task_id == task_id)


def workers(world: World) -> list[InstanceId]:
    return [i for i in world.living_instances() if world.machines[i].identity.role is NodeRole.WORKER]


def probes(world: World) -> list[InstanceId]:
    return [i for i in world.living_instances() if world.machines[i].identity.role is NodeRole.PROBE]


def run_until(world: World, condition: str, holds: object, deadline_s: float) -> None:
    """Let the world live until the condition holds; it must before the deadline."""
    assert callable(holds)
    while not holds():
        assert now(world) < deadline_s, f"not within {deadline_s} s: {condition}"
        world.run_until(now(world) + 1.0)


def test_without_a_task_each_probe_ends_within_seconds_of_its_boot() -> None:
    world = make_world()
    world.run_until(10 * EVERY_S + BOOT_S + 60)
    assert len(world.schedule.launched) == 10
    assert world.living_instances() == []
    up_s = []
    for probe in world.schedule.launched:
        notes = [note for note in world.notes if probe in note and "EC2" in note]
        started = next(float(n.split()[0]) for n in notes if "running" in n)
        ended = next(float(n.split()[0]) for n in notes if "shutting-down" in n)
        up_s.append(ended - started)
    assert max(up_s) < 30.0
    world.close()


def test_a_task_at_zero_is_run_by_a_worker_and_nothing_is_left() -> None:
    world = make_world()
    world.run_until(2 * EVERY_S + 100)
    submitted = now(world)
    task = world.submit(QUEUE, 120.0)
    run_until(
        world,
        "a worker runs the task",
        lambda: status(world, task) is TaskStatus.IN_PROGRESS,
        submitted + EVERY_S + 2 * BOOT_S + 30,
    )
    run_until(world, "the probe has ended, as a worker leads", lambda: not probes(world), now(world) + 60)
    assert [world.machines[i].leads for i in workers(world)] == [True]
    run_until(world, "the task is done", lambda: status(world, task) is TaskStatus.COMPLETED, now(world) + 150)
    run_until(world, "the cluster is at zero", lambda: not workers(world), now(world) + 180)
    world.run_until(now(world) + BOOT_S + 60)
    check_end(world)
    world.close()


@pytest.mark.parametrize("seed", range(1, 7))
def test_when_every_machine_dies_at_once_the_cluster_comes_back_within_the_period_and_a_boot(seed: int) -> None:
    """The death is put around an execution, just before a probe is up (a dead leader's key still stands), and between."""
    world = make_world(seed=seed)
    tasks = [world.submit(QUEUE, 3000.0) for _ in range(2)]
    run_until(
        world,
        "both tasks run",
        lambda: all(status(world, task) is TaskStatus.IN_PROGRESS for task in tasks),
        2 * EVERY_S + 4 * BOOT_S,
    )
    moments = {1: -5.0, 2: 0.0, 3: 5.0, 4: BOOT_S - 8.0, 5: BOOT_S - 2.0, 6: 150.0}
    world.run_until(4 * EVERY_S + moments[seed])
    victims = world.living_instances()
    for instance_id in victims:
        world.fleet.interrupt(instance_id)
    died = now(world)
    world.run_until(died + 6.0)
    assert not set(victims) & set(world.living_instances())
    # A probe that boots now is still to come: it was not up, so nobody could end it.
    run_until(
        world,
        "something leads again",
        lambda: any(world.machines[i].leads for i in world.living_instances()),
        died + EVERY_S + BOOT_S + world.leader_ttl_s + 5,
    )
    # The tasks of the dead machines are put back once it is certain that they are dead, and run again.
    run_until(
        world,
        "both tasks run again",
        lambda: len(workers(world)) == 2 and all(status(world, task) is TaskStatus.IN_PROGRESS for task in tasks),
        died + EVERY_S + BOOT_S + 90 + BOOT_S + 30,
    )
    run_until(
        world,
        "both are done and the cluster is at zero",
        lambda: all(status(world, t) is TaskStatus.COMPLETED for t in tasks) and not workers(world),
        now(world) + 3600,
    )
    world.run_until(now(world) + BOOT_S + 60)
    check_end(world)
    world.close()


def test_a_probe_leaves_a_cluster_with_a_leader_alone() -> None:
    world = make_world()
    task = world.submit(QUEUE, 2000.0)
    run_until(world, "the task runs", lambda: status(world, task) is TaskStatus.IN_PROGRESS, EVERY_S + 2 * BOOT_S + 30)
    run_until(world, "the worker leads alone", lambda: not probes(world), now(world) + 60)
    (worker,) = workers(world)
    before = len(world.schedule.launched)
    for _ in range(1000):
        world.run_until(now(world) + 1.0)
        assert world.machines[worker].leads, "no probe takes the lead from a worker"
    assert len(world.schedule.launched) - before >= 3
    world.close()


def test_a_minimum_is_kept_from_zero() -> None:
    world = make_world(CONFIG.replace("max_instances: 2", "max_instances: 2, min_instances: 1"))
    run_until(world, "a worker is up", lambda: len(workers(world)) == 1, EVERY_S + 2 * BOOT_S + 30)
    world.run_until(now(world) + 2 * EVERY_S)
    assert len(workers(world)) == 1
    world.close()


def test_a_probe_that_comes_up_while_a_dead_leaders_key_still_stands_waits_and_leads() -> None:
    world = make_world()
    task = world.submit(QUEUE, 3000.0)
    run_until(world, "the task runs", lambda: status(world, task) is TaskStatus.IN_PROGRESS, EVERY_S + 2 * BOOT_S + 30)
    world.run_until(4 * EVERY_S + BOOT_S - 2.0)
    for instance_id in world.living_instances():
        world.fleet.interrupt(instance_id)
    died = now(world)
    world.run_until(died + 2.5)
    run_until(
        world,
        "the probe that had just come up leads",
        lambda: any(world.machines[i].leads for i in probes(world)),
        died + world.leader_ttl_s + 10,
    )
    world.close()
