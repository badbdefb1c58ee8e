"""A cluster at zero, with real processes: a probe finds the task, launches the worker, leaves it the lead, and all of it ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.cloud import tags
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.coordination.election import read_leader
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.localcloud.default_config import DefaultTimes, default_config
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.world import World, WorldOptions
from scaler_plugin.node.assembly import UserDataWriter

from .. import waiting
from .held_tasks import HeldTasks

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def world() -> Iterator[World]:
    environment = dict(os.environ)
    config = default_config(times=DefaultTimes(idle_timeout="4s"))
    try:
        with World(WorldOptions(config=config, boot_delay_s=0.0), Interruption()) as world:
            yield world
    finally:
        os.environ.clear()
        os.environ.update(environment)


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


def test_a_probe_brings_a_cluster_from_zero_to_its_task_and_back(world: World, tmp_path: Path) -> None:
    def until(what: str, condition: Callable[[], bool]) -> None:
        waiting.until(condition, what, waiting.STARTING_S, seen=lambda: instances(world), every_s=0.2)

    with closing(open_store(world.address.etcd.endpoints, timeout_s=waiting.PATIENCE_S)) as store:
        idle_probe = launch_probe(world)
        until("a probe without tasks ends by itself", lambda: instances(world)[idle_probe] == "terminated")
        assert len(instances(world)) == 1, "it launched nothing"

        with closing(HeldTasks(world.clearml_environment(), tmp_path / "release")) as tasks:
            tasks.enqueue(1, [world.config.pools[0].queues[0]])
            probe = launch_probe(world)
            until("a worker was launched", lambda: len(instances(world)) == 3)
            (worker,) = set(instances(world)) - {idle_probe, probe}

            def leader() -> str:
                found = read_leader(store, world.keys)
                return found.candidate if found else ""

            until("the worker leads", lambda: leader() == worker)
            until("the probe ends", lambda: instances(world)[probe] == "terminated")
            tasks.let_go()
            until("the task is done", lambda: [task.status for task in tasks.look()] == ["completed"])
        until("nothing is left", lambda: set(instances(world).values()) == {"terminated"})
        assert len(instances(world)) == 3
