"""`bootstrap first` and `wake` on a real etcd and the EC2 double: only what can start is launched, and it is followed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Delete, Put, Store
from scaler_plugin.core.model import InstanceId, Node, NodeIdentity, NodeRole, NodeState, PoolName
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID, Ec2DoubleProcess
from scaler_plugin.localcloud.etcd import EtcdProcess

from ...waiting import PATIENCE_S, STARTING_S, until

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("launching")]

KEYS = Keys("scaler-sidecar", "launching")
REGION = "eu-central-1"
SECRET = "/scaler-sidecar/launching/clearml-secret-key"
CONFIG = f"""
cluster: launching
zero: {{mode: MODE}}
etcd: {{endpoints: [ETCD]}}
clearml: {{api_host: "http://api:8008", access_key: "env:AK", secret_key: "ssm:{SECRET}"}}
aws: {{region: {REGION}, stack: launching-stack}}
pools:
  - name: cpu
    queues: [default]
    instance_types: [c6i.xlarge]
    ami: {DEMO_IMAGE_ID}
    max_instances: 4
"""
#: What systemd copies to a console when `boot` fails.
SAID = "[    5.1] scaler-sidecar[411]: etcd at 10.0.0.5:2379 did not answer within 5 s; check the address.\n"


@dataclass
class Desk:
    """An administrator's machine: the file, rights at AWS, and etcd within reach."""

    folder: Path
    aws: Ec2DoubleProcess
    etcd: EtcdProcess
    store: Store

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "NO_PROXY": "127.0.0.1",
            "AWS_ENDPOINT_URL": self.aws.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        # Who starts the tests in the background may have them, and so all that they start, ignore Ctrl-C.
        return subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, "-m", "scaler_plugin", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        return ended(process, code)

    def write(self, mode: str = "standby", etcd: str = "", more: str = "") -> None:
        endpoint = etcd or self.etcd.endpoint.removeprefix("http://")
        text = CONFIG.replace("MODE", mode).replace("ETCD", f'"{endpoint}"') + more
        (self.folder / "scaler.yaml").write_text(text)

    def ready(self, mode: str = "standby") -> None:
        """All that day one needs before `first`."""
        self.write(mode)
        self.client("ssm").put_parameter(Name=SECRET, Value="hidden", Type="SecureString", Overwrite=True)
        self.run("bootstrap", "apply", "scaler.yaml")
        self.run("config", "push", "scaler.yaml")

    def client(self, service: str) -> Any:
        make: Any = boto3.client
        return make(
            service,
            region_name=REGION,
            endpoint_url=self.aws.url,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )

    def alive(self) -> list[str]:
        listed = requests.get(f"{self.aws.url}/_instances", timeout=PATIENCE_S).json()
        return [one["id"] for one in listed if one["state"] in ("pending", "running")]

    def launched(self) -> InstanceId:
        """The one instance, as soon as there is one."""
        (instance,) = until(self.alive, "something is launched", STARTING_S, every_s=0.1)
        return InstanceId(instance)

    def tell_ec2(self, instance: str, what: str, body: str = "") -> None:
        url = f"{self.aws.url}/_instances/{instance}/{what}"
        requests.post(url, data=body.encode(), timeout=PATIENCE_S).raise_for_status()

    def register(self, instance: InstanceId, role: NodeRole = NodeRole.WORKER) -> None:
        identity = NodeIdentity("launching", instance, role, PoolName("cpu") if role is NodeRole.WORKER else None)
        node = Node(identity, NodeState.UP, time.time())
        self.store.transact([], [Put(KEYS.node(instance), encode(node))])


def ended(process: subprocess.Popen[str], code: int) -> str:
    output, _ = process.communicate(timeout=STARTING_S)
    assert process.returncode == code, output
    return output


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ec2DoubleProcess, EtcdProcess]]:
    aws = Ec2DoubleProcess(tmp_path_factory.mktemp("aws"), end_after_s=0.0, boot_after_s=0.0)
    with EtcdProcess(tmp_path_factory.mktemp("etcd")) as etcd:
        aws.start()
        yield aws, etcd
        aws.stop()


@pytest.fixture
def desk(machines: tuple[Ec2DoubleProcess, EtcdProcess], tmp_path: Path) -> Iterator[Desk]:
    aws, etcd = machines
    store = open_store([etcd.endpoint.removeprefix("http://")])
    made = Desk(tmp_path, aws, etcd, store)
    yield made
    if alive := made.alive():
        made.client("ec2").terminate_instances(InstanceIds=alive)
    made.client("cloudformation").delete_stack(StackName="launching-stack")
    store.transact([], [Delete(entry.key) for entry in store.get_prefix(KEYS.root)])
    store.close()


def test_without_a_published_configuration_nothing_is_launched(desk: Desk) -> None:
    desk.ready()
    desk.store.transact([], [Delete(KEYS.config)])
    refusal = desk.run("bootstrap", "first", "scaler.yaml", code=2)
    assert "etcd holds no configuration of cluster launching" in refusal
    assert "scaler-sidecar config push scaler.yaml" in refusal
    assert desk.alive() == []


def test_without_a_secret_that_nodes_need_nothing_is_launched(desk: Desk) -> None:
    desk.ready()
    desk.client("ssm").delete_parameter(Name=SECRET)
    refusal = desk.run("bootstrap", "first", "scaler.yaml", code=2)
    assert f"aws ssm put-parameter --region {REGION} --type SecureString --name {SECRET}" in refusal
    assert desk.alive() == []


def test_a_pool_that_only_the_file_has_is_refused_and_another_setting_is_a_warning(desk: Desk) -> None:
    desk.ready()
    desk.write(more="    idle_timeout: 7m\n")
    warned = desk.run("bootstrap", "first", "scaler.yaml", "--no-wait")
    assert "Warning: The configuration in etcd (revision " in warned
    file = desk.folder / "scaler.yaml"
    file.write_text(file.read_text().replace("name: cpu", "name: other"))
    desk.run("bootstrap", "apply", "scaler.yaml")
    assert "has no pool other" in desk.run("bootstrap", "first", "scaler.yaml", "--again", code=2)


def test_the_first_instance_is_followed_until_its_node_registers(desk: Desk) -> None:
    desk.ready()
    process = desk.start("bootstrap", "first", "scaler.yaml")
    instance = desk.launched()
    desk.register(instance)
    output = ended(process, 0)
    assert f"{instance} has registered" in output
    assert "scaler-sidecar status --config scaler.yaml --watch" in output
    refusal = desk.run("bootstrap", "first", "scaler.yaml", code=2)
    assert f"1 instance of cluster launching runs already: {instance} (cpu, running)" in refusal
    assert "--again" in refusal
    assert "Launched i-" in desk.run("bootstrap", "first", "scaler.yaml", "--again", "--no-wait")


def test_one_that_does_not_come_up_is_exit_code_1_and_the_sentence_of_its_console(desk: Desk) -> None:
    desk.ready()
    process = desk.start("bootstrap", "first", "scaler.yaml")
    instance = desk.launched()
    desk.tell_ec2(instance, "console", SAID)
    desk.tell_ec2(instance, "shutdown")
    output = " ".join(ended(process, 1).split())
    assert "ended without becoming a node. It said: etcd at 10.0.0.5:2379 did not answer within 5 s" in output
    assert f"aws ec2 get-console-output --region {REGION} --latest --output text --instance-id {instance}" in output


def test_ctrl_c_leaves_the_instance_alone_and_says_how_to_look_again(desk: Desk) -> None:
    desk.ready()
    process = desk.start("bootstrap", "first", "scaler.yaml")
    instance = desk.launched()
    assert process.stdout is not None
    seen = ""
    while f"{instance} runs" not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    output = ended(process, 130)
    assert f"{instance} is left alone" in output
    assert "scaler-sidecar status --config scaler.yaml" in output
    assert "Traceback" not in output
    assert desk.alive() == [instance]


def test_where_etcd_cannot_be_reached_from_here_that_is_a_warning(desk: Desk) -> None:
    desk.ready()
    desk.write(etcd="127.0.0.1:9")
    output = desk.run("bootstrap", "first", "scaler.yaml", "--no-wait")
    assert "Warning: whether the configuration is published cannot be seen from here: etcd at 127.0.0.1:9" in output
    assert "Launched i-" in output


def test_wake_looks_and_follows_in_the_same_way(desk: Desk) -> None:
    desk.ready("probe")
    desk.store.transact([], [Delete(KEYS.config)])
    assert "etcd holds no configuration" in desk.run("wake", "scaler.yaml", code=2)
    desk.run("config", "push", "scaler.yaml")
    process = desk.start("wake", "scaler.yaml")
    probe = desk.launched()
    desk.register(probe, NodeRole.PROBE)
    assert f"{probe} has registered" in ended(process, 0)
    assert f"{probe} (probe, running)" in desk.run("wake", "scaler.yaml", code=2)
