"""A node's system takes long to stop after its retirement: EC2 calls it running, and nobody may wait for it."""

from __future__ import annotations

import pytest

from scaler_plugin.core.model import QueueName, TaskStatus
from scaler_plugin.simulation.world import World

from .scene import LiveScene

QUEUE = QueueName("training")
CONFIG = f"""
cluster: simulated
pools:
  - name: cpu
    queues: [{QUEUE}]
    instance_types: [c5.large]
    ami: ami-1234
    max_instances: 3
    idle_timeout: 1m
"""
STOPPING_S = 80.0


@pytest.mark.parametrize("after_s", [1.0, 20.0, 40.0, 60.0])
def test_a_task_that_arrives_while_the_only_node_shuts_down_is_launched_for_at_once(after_s: float) -> None:
    scene = LiveScene(CONFIG)
    world: World = scene.world
    world.power_off_s = lambda _rng: STOPPING_S
    first = world.submit(QUEUE, 30.0)
    scene.until(lambda: scene.status(first) is TaskStatus.COMPLETED, 120)
    (machine,) = [machine for machine in world.machines.values() if machine.on]
    scene.until(lambda: not machine.sidecar_process.alive, 120)
    world.run_until(scene.now + after_s)
    assert machine.on
    launched = world.fleet.launched
    second = world.submit(QUEUE, 30.0)
    took_s = scene.until(lambda: world.fleet.launched > launched, 90)
    assert took_s <= 2.3
    scene.until(lambda: scene.status(second) is TaskStatus.COMPLETED, 120)
    scene.until(lambda: not world.living_instances(), 300)
    assert not world.broken
