"""``scaler-sidecar localcloud up``: a stage that others play on, from outside, by what it prints."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from ...waiting import STARTING_S

pytestmark = [pytest.mark.real, pytest.mark.slow]

Command = Callable[..., "subprocess.Popen[str]"]

ENQUEUE = """
from clearml.backend_api.session.client import APIClient
client = APIClient()
script = {"binary": "python3", "repository": "", "entry_point": "one.py", "working_dir": ".", "diff": "print('one')\\n"}
task = client.tasks.create(name="from outside", type="training", script=script)
client.tasks.enqueue(task=task.id, queue_name="demo-cpu")
print(task.id)
"""


QUEUES = """
from clearml.backend_api.session.client import APIClient
print(*sorted(queue.name for queue in APIClient().queues.get_all()))
"""


def exports_of(cloud: subprocess.Popen[str]) -> dict[str, str]:
    exports = {}
    assert cloud.stdout is not None
    for line in cloud.stdout:
        if line.strip() == "READY":
            return exports
        name, _, value = line.strip().removeprefix("export ").partition("=")
        assert line.startswith("export ")
        exports[name] = shlex.split(value)[0] if value else ""
    raise AssertionError("it ended before it was ready")


def test_a_standby_from_outside_makes_it_a_cluster(
    command: Command, folder: Path, left_of: Callable[[Path], list[str]], wait: Callable[..., None]
) -> None:
    cloud = command("localcloud", "up", "--boot-delay", "0")
    exports = exports_of(cloud)
    for name in (
        "CLEARML_API_HOST",
        "CLEARML_API_ACCESS_KEY",
        "CLEARML_API_SECRET_KEY",
        "AWS_ENDPOINT_URL_EC2",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_DEFAULT_REGION",
        "SCALER_ETCD",
        "SCALER_CLUSTER",
    ):
        assert exports[name]
    ec2 = boto3.client(
        "ec2",
        endpoint_url=exports["AWS_ENDPOINT_URL_EC2"],
        region_name=exports["AWS_DEFAULT_REGION"],
        aws_access_key_id=exports["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=exports["AWS_SECRET_ACCESS_KEY"],
    )
    environment = {**os.environ, **exports}
    # Before anybody leads: the SDK looks the queue up by its name.
    looked_up = subprocess.run(
        [sys.executable, "-c", QUEUES], env=environment, capture_output=True, text=True, check=True
    )
    assert {"demo-cpu", "demo-gpu"} <= set(looked_up.stdout.split())
    standby = command("run", "--standby", **exports)
    enqueued = subprocess.run(
        [sys.executable, "-c", ENQUEUE], env=environment, capture_output=True, text=True, check=True
    )

    def states() -> list[str]:
        return [i["State"]["Name"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]

    # Not "is running": by then it may have run the task and ended.
    wait(lambda: states() not in ([], ["pending"]))
    assert len(states()) == 1
    session = [sys.executable, "-c", f"{STATUS}print(status('{enqueued.stdout.strip()}'))"]
    wait(
        lambda: (
            subprocess.run(session, env=environment, capture_output=True, text=True, check=True).stdout.strip()
            == "completed"
        )
    )
    (instance,) = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    wait(lambda: states() == ["terminated"])

    standby.terminate()
    assert standby.wait(STARTING_S) == 0
    cloud.send_signal(signal.SIGINT)
    assert cloud.wait(STARTING_S) == 0
    assert left_of(folder) == []
    assert list(folder.iterdir()) == []
    for url in (exports["CLEARML_API_HOST"], exports["AWS_ENDPOINT_URL_EC2"], exports["SCALER_ETCD"]):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


STATUS = """
from clearml.backend_api.session.client import APIClient
def status(task):
    return str(APIClient().tasks.get_by_id(task).status.value)
"""


def test_ports_and_a_configuration_of_ones_own(command: Command, folder: Path, tmp_path: Path) -> None:
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
    config = tmp_path / "scaler.yaml"
    config.write_text(
        "cluster: mine\n"
        "etcd: {endpoints: ['10.0.0.5:2379']}\n"
        "clearml: {api_host: 'https://api.clear.ml', access_key: 'env:A', secret_key: 'env:B'}\n"
        "pools: [{name: p, queues: [own], instance_types: [c5.large], ami: ami-0a1b2c3d4e5f67890, max_instances: 2}]\n"
    )
    cloud = command(
        "localcloud", "up", "--etcd-port", ports[0], "--ec2-port", ports[1], "--clearml-port", ports[2],
        "--config", str(config),
    )  # fmt: skip
    exports = exports_of(cloud)

    assert exports["SCALER_CLUSTER"] == "mine"
    assert [exports[n].rpartition(":")[2] for n in ("SCALER_ETCD", "AWS_ENDPOINT_URL_EC2", "CLEARML_API_HOST")] == ports
    shown = command("config", "show", **exports)
    out, err = shown.communicate(timeout=STARTING_S)
    assert "ami-0a1b2c3d4e5f67890" in out, err
    assert "10.0.0.5" not in out
    assert "clear.ml" not in out
    images = boto3.client(
        "ec2",
        endpoint_url=exports["AWS_ENDPOINT_URL_EC2"],
        region_name=exports["AWS_DEFAULT_REGION"],
        aws_access_key_id="local",
        aws_secret_access_key="local",
    ).describe_images(ImageIds=["ami-0a1b2c3d4e5f67890"])["Images"]
    assert len(images) == 1
    cloud.send_signal(signal.SIGTERM)
    assert cloud.wait(STARTING_S) == 0


def test_a_port_that_is_taken_is_a_sentence(command: Command, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cloud = command("localcloud", "up", "--clearml-port", str(taken.getsockname()[1]))
        out, err = cloud.communicate(timeout=STARTING_S)

    assert cloud.returncode == 1
    assert "READY" not in out
    assert "Traceback" not in err
    assert "ClearML API stand-in did not start" in err
    assert list(folder.iterdir()) == []
