"""How soon a task that no one will ever run is back in its queue, on the virtual clock and with the intervals of production."""

from __future__ import annotations

import pytest

from scaler_plugin.clearml_server.memory_client import Fault
from scaler_plugin.core.model import QueueName, TaskId, TaskStatus
from scaler_plugin.simulation.machine import SimMachine

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
    min_instances: 1
    idle_timeout: 10m
"""


class Scene(LiveScene):
    def __init__(self, seed: int) -> None:
        super().__init__(CONFIG, seed)
        self.until(lambda: any(m.on and m.agents for m in self.world.machines.values()), 120)
        self.world.run_until(self.now + 10 + 7 * seed)

    @property
    def node(self) -> SimMachine:
        return next(machine for machine in self.world.machines.values() if machine.on)

    def completed(self, task: TaskId) -> bool:
        return self.status(task) is TaskStatus.COMPLETED


@pytest.mark.parametrize("seed", range(5))
def test_the_task_of_an_instance_that_died_is_back_within_half_a_minute(seed: int) -> None:
    scene = Scene(seed)
    task = scene.world.submit(QUEUE, 600.0)
    scene.until(lambda: scene.status(task) is TaskStatus.IN_PROGRESS, 60)
    scene.world.run_until(scene.world.clock.monotonic() + 60 + 7 * seed)
    scene.world.fleet.interrupt(scene.node.identity.instance_id)
    took_s = scene.until(lambda: scene.world.server.task(task).requeues == 1, 60)
    print(f"EC2 says ended -> task back in its queue: {took_s:.1f} s")
    assert took_s <= 30.0
    scene.until(lambda: scene.completed(task), 1200)
    assert not scene.world.broken


@pytest.mark.parametrize("seed", range(5))
def test_a_task_that_an_agent_popped_and_never_got_is_back_within_a_minute_and_a_half(seed: int) -> None:
    scene = Scene(seed)
    node = scene.node
    # The answer to the pull that takes the task is lost on its way.
    task = scene.world.submit(QUEUE, 60.0)
    node.server.fault = Fault.UNAVAILABLE_AFTER
    scene.until(lambda: scene.world.server.in_limbo(task), 30)
    node.server.fault = Fault.NONE
    took_s = scene.until(lambda: scene.world.server.task(task).requeues == 1, 150)
    print(f"popped by nobody -> task back in its queue: {took_s:.1f} s")
    assert took_s <= 90.0
    scene.until(lambda: scene.completed(task), 600)
    assert not scene.world.broken
