"""A cluster at zero, with real processes: a probe finds the task, launches the worker, leaves it the lead, and all of it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scaler_plugin.cloud import tags
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.coordination.election import read_leader
from scaler_plugin.localcloud.default_config import DefaultTimes, default_config
from scaler_plugin.localcloud.demo.tasks import DemoTasks
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.world import World, WorldOptions
from scaler_plugin.node.assembly import UserDataWriter

pytestmark = [pytest.mark.real, pytest.mark.slow]

PATIENCE_S = 120.0


@pytest.fixture
def world() -> Iterator[World]:
    environment = dict(os.environ)
    config = default_config(times=DefaultTimes(idle_timeout="4s"))
    with World(WorldOptions(config=config, boot_delay_s=0.0), Interruption()) as world:
        yield world
    os.environ.clear()
    os.environ.update(environment)


def until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen: {what}"
        time.sleep(0.2)


def launch_probe(world: World) -> str:
    """What the schedule's call does, on the local EC2."""
    config = world.config
    user_data = UserDataWriter(EtcdSettings(world.address.etcd.endpoints), config.prefix).probe(config)
    given = {tags.CLUSTER: config.cluster, tags.ROLE: "probe"}
    answer = world.ec2_client().run_instances(
        ImageId=config.pools[0].ami,
        InstanceType=config.zero.probe_instance_type,
        MinCount=1,
        MaxCount=1,
        UserData=user_data,
        InstanceInitiatedShutdownBehavior="terminate",
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in given.items()]},
        ],
    )
    return str(answer["Instances"][0]["InstanceId"])


def instances(world: World) -> dict[str, str]:
    """Every instance that EC2 knows, with its state."""
    listed: list[dict[str, Any]] = [
        i for r in world.ec2_client().describe_instances()["Reservations"] for i in r["Instances"]
    ]
    return {i["InstanceId"]: i["State"]["Name"] for i in listed}


def test_a_probe_brings_a_cluster_from_zero_to_its_task_and_back(world: World) -> None:
    store = world.open_store()
    try:
        idle_probe = launch_probe(world)
        until("a probe without tasks ends by itself", lambda: instances(world)[idle_probe] == "terminated")
        assert len(instances(world)) == 1, "it launched nothing"

        tasks = DemoTasks(world.clearml_environment())
        tasks.enqueue(1, [world.config.pools[0].queues[0]], 8)
        probe = launch_probe(world)
        until("a worker was launched", lambda: len(instances(world)) == 3)
        (worker,) = set(instances(world)) - {idle_probe, probe}

        def leader() -> str:
            found = read_leader(store, world.keys)
            return found.candidate if found else ""

        until("the worker leads", lambda: leader() == worker)
        until("the probe ends", lambda: instances(world)[probe] == "terminated")
        until("the task is done", lambda: [task.status for task in tasks.look()] == ["completed"])
        until("nothing is left", lambda: set(instances(world).values()) == {"terminated"})
        assert len(instances(world)) == 3
    finally:
        store.close()
