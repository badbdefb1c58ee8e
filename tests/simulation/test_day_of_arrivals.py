"""The real sidecars and leaders through a day of arrivals on a virtual clock."""

from __future__ import annotations

from random import Random

import pytest

from scaler_plugin.config.load import parse_yaml
from scaler_plugin.core.model import QueueName
from scaler_plugin.simulation.invariants import Watch, check_end
from scaler_plugin.simulation.workload import DAY_S, bursts
from scaler_plugin.simulation.world import World

CONFIG = """
cluster: simulated
max_instances: 50
poll_interval: 10s
leader_ttl: 60s
pools:
  - name: cpu
    queues: [urgent, cpu-tasks]
    instance_types: [c5.large, c5a.large]
    ami: ami-1234
    max_instances: 35
    idle_timeout: 5m
    startup_timeout: 5m
  - name: gpu
    queues: [gpu-tasks, urgent]
    instance_types: [g5.xlarge]
    ami: ami-1234
    market: spot
    max_instances: 20
    slots_per_node: 2
    idle_timeout: 3m
    startup_timeout: 5m
"""
QUEUES = (QueueName("urgent"), QueueName("cpu-tasks"), QueueName("gpu-tasks"))


@pytest.mark.parametrize("seed", [1, 2])
def test_in_a_day_of_bursts_every_task_runs_once_maxima_hold_and_every_instance_ends(seed: int) -> None:
    world = World(parse_yaml(CONFIG, "test"), seed, lead_step_s=5.0)
    world.watchers.append(Watch(world).check)
    most = 0

    def count(_world: World) -> None:
        nonlocal most
        most = max(most, sum(world.fleet.living_by_pool().values()))

    world.watchers.append(count)
    arrivals = list(bursts(Random(seed), QUEUES, DAY_S, per_hour=90, mean_duration_s=900))
    for arrival in arrivals:
        world.scheduler.call_later(arrival.at_s, lambda a=arrival: world.submit(a.queue, a.duration_s))
    world.run_until(DAY_S)
    world.run_until(DAY_S + 6 * 3600)
    check_end(world)
    world.close()
    assert len(arrivals) > 1500
    assert most == 50, "the day should have filled the cluster to its maximum at some time"
