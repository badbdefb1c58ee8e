"""A stack's life in the EC2 double: planned, applied, applied again, changed, used for launches, refused to go, gone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from scaler_plugin.bootstrapping.spot_role import SPOT_ROLE
from scaler_plugin.cli.app import app
from scaler_plugin.cloud.user_data import parse_user_data
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.registry import Registry
from scaler_plugin.coordination.requests import read_all_requests
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import (
    InstanceId,
    Node,
    NodeIdentity,
    NodeRole,
    NodeState,
    PoolName,
    QueueName,
    Slot,
    SlotState,
    TaskId,
)
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID, Ec2DoubleProcess
from scaler_plugin.localcloud.etcd import EtcdProcess, free_port
from scaler_plugin.node.clock import SystemClock

from ...waiting import STARTING_S, until
from .double_as_aws import use_as_aws

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("stack_in_the_double")]

CONFIG = f"""
cluster: research
zero: {{mode: standby}}
etcd: {{endpoints: ["10.0.0.5:2379"]}}
aws: {{region: eu-central-1, stack: research-stack}}
pools:
  - name: cpu
    queues: [default]
    instance_types: [c6i.xlarge]
    ami: {DEMO_IMAGE_ID}
    max_instances: 4
  - name: gpu
    queues: [gpu-tasks]
    market: spot
    instance_types: [g5.xlarge]
    zones: [eu-central-1a]
    ami: {DEMO_IMAGE_ID}
    max_instances: 2
"""
PROBE = CONFIG.replace("zero: {mode: standby}\n", "")


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ec2DoubleProcess]:
    double = Ec2DoubleProcess(tmp_path_factory.mktemp("double"), end_after_s=0.0, boot_after_s=0.0)
    double.start()
    yield double
    double.stop()


@pytest.fixture
def account(double: Ec2DoubleProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in this process that asks AWS asks the double, and finds the account as new."""
    use_as_aws(double, monkeypatch)
    client("iam").create_role(RoleName=SPOT_ROLE, AssumeRolePolicyDocument="{}")  # moto gives it another name
    yield
    with suppress(ClientError):
        client("iam").delete_role(RoleName=SPOT_ROLE)
    ec2 = client("ec2")
    ids = [i["InstanceId"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    if ids:
        ec2.terminate_instances(InstanceIds=ids)
    client("cloudformation").delete_stack(StackName="research-stack")


def client(service: str) -> Any:
    return boto3.client(service, region_name="eu-central-1")


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def file(account: None, tmp_path: Path) -> str:
    path = tmp_path / "scaler.yaml"
    path.write_text(CONFIG)
    return str(path)


def instances() -> list[dict[str, Any]]:
    listed = [i for r in client("ec2").describe_instances()["Reservations"] for i in r["Instances"]]
    return [i for i in listed if i["State"]["Name"] in ("pending", "running")]


def test_plan_says_what_would_be_made_and_makes_nothing(file: str) -> None:
    client("iam").delete_role(RoleName=SPOT_ROLE)
    output = run("bootstrap", "plan", file)
    assert "+ PoolCpu  AWS::EC2::LaunchTemplate" in output
    assert "+ NodeRole  AWS::IAM::Role" in output
    assert "+ AWSServiceRoleForEC2Spot" in output
    assert "as arn:aws:" in output
    assert "(credentials from environment variables)" in output
    assert (
        client("cloudformation").list_stacks()["StackSummaries"] == []
        or not client("ec2").describe_launch_templates()["LaunchTemplates"]
    )


def test_apply_makes_the_stack_and_a_second_apply_changes_nothing(file: str) -> None:
    first = run("bootstrap", "apply", file)
    assert "The stack research-stack is ready." in first
    assert "NodeSecurityGroup: sg-" in first
    assert "--protocol tcp --port 2379 --source-group sg-" in first, "the way to etcd"
    names = {t["LaunchTemplateName"] for t in client("ec2").describe_launch_templates()["LaunchTemplates"]}
    assert names == {"research-stack-cpu", "research-stack-gpu"}
    again = run("bootstrap", "apply", file)
    assert "was ready already" in again
    assert "--source-group" not in again
    assert "nothing to change" in run("bootstrap", "plan", file)


def test_a_change_is_shown_setting_by_setting_and_then_made(file: str) -> None:
    run("bootstrap", "apply", file)
    changed = CONFIG.replace("c6i.xlarge", "c6i.2xlarge").replace(
        "max_instances: 4", "max_instances: 4\n    tags: {team: x}"
    )
    Path(file).write_text(changed)
    plan = run("bootstrap", "plan", file)
    assert "~ LaunchPolicy" in plan
    assert "c6i.xlarge → c6i.2xlarge" in plan
    assert "+ " not in plan, "nothing is made anew"
    run("bootstrap", "apply", file)
    assert "nothing to change" in run("bootstrap", "plan", file)


def test_a_stack_made_without_a_probe_gets_one_when_nothing_is_said_against_it(file: str) -> None:
    run("bootstrap", "apply", file)
    Path(file).write_text(PROBE)
    plan = run("bootstrap", "plan", file)
    made = [line.split()[1] for line in plan.splitlines() if line.lstrip().startswith("+ ")]
    assert made == ["ProbeTemplate", "ProbeRole", "ProbePolicy", "ProbeSchedule"]
    assert client("scheduler").list_schedules()["Schedules"] == []
    assert "The probe looks for tasks every 5m" in run("bootstrap", "apply", file)
    assert len(client("scheduler").list_schedules()["Schedules"]) == 1


def test_first_launches_by_the_pools_template_with_the_clusters_tags(file: str) -> None:
    run("bootstrap", "apply", file)
    assert "Launched i-" in run("bootstrap", "first", file, "--pool", "cpu", "--no-wait")
    (instance,) = instances()
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert (tags["scaler-sidecar:cluster"], tags["scaler-sidecar:pool"]) == ("research", "cpu")
    assert tags["scaler-sidecar:launch"].startswith("research-first-")
    assert instance["InstanceType"] == "c6i.xlarge"
    text = client("ec2").describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
    assert text["UserData"]["Value"]


def test_destroy_refuses_while_nobody_can_say_what_runs_and_ends_it_when_told(file: str) -> None:
    Path(file).write_text(CONFIG.replace("10.0.0.5:2379", f"127.0.0.1:{free_port()}"))
    run("bootstrap", "apply", file)
    run("bootstrap", "first", file, "--no-wait")
    [instance] = (one["InstanceId"] for one in instances())
    for options in ((), ("--terminate",)):
        refusal = run("bootstrap", "destroy", file, "--yes", *options, code=5)
        assert f"1 instance of cluster research runs ({instance})." in refusal
        assert f"Whether a task runs on {instance} is not known: etcd at 127.0.0.1:" in refusal
    assert len(instances()) == 1
    assert "goes with --terminate" in run("bootstrap", "destroy", file, "--yes", "--kill-tasks", code=2)
    assert "is gone" in run("bootstrap", "destroy", file, "--yes", "--terminate", "--kill-tasks")
    assert instances() == []
    assert client("ec2").describe_launch_templates()["LaunchTemplates"] == []
    assert "There is no stack" in run("bootstrap", "destroy", file, "--yes")


def test_destroy_names_the_tasks_that_run_and_ends_nodes_that_have_none(file: str) -> None:
    with EtcdProcess() as etcd, closing(open_store([etcd.endpoint])) as store:
        Path(file).write_text(CONFIG.replace("10.0.0.5:2379", etcd.endpoint))
        run("bootstrap", "apply", file)
        run("config", "push", file)
        run("bootstrap", "first", file, "--no-wait")
        [instance] = (one["InstanceId"] for one in instances())
        keys = Keys("scaler-sidecar", "research")
        registry = Registry(store, keys, SystemClock())
        identity = NodeIdentity("research", InstanceId(instance), NodeRole.WORKER, PoolName("cpu"))
        task = Slot(0, SlotState.BUSY, 0.0, TaskId("a-task"), QueueName("default"))
        registry.publish(Node(identity, NodeState.UP, 0.0, slots=(task,)))
        for options in ((), ("--terminate",)):
            refusal = run("bootstrap", "destroy", file, "--yes", *options, code=5)
            assert f"1 task runs there: a-task on {instance} (pool cpu). Call this again when that is over" in refusal
        assert read_all_requests(store, keys) == ()

        registry.publish(Node(identity, NodeState.UP, 0.0, slots=(Slot(0, SlotState.IDLE, 0.0),)))
        assert "and no task runs on it. Give --terminate" in run("bootstrap", "destroy", file, "--yes", code=5)
        with ThreadPoolExecutor(1) as node:
            ended = node.submit(end_when_asked, keys, registry, instance, store)
            output = run("bootstrap", "destroy", file, "--yes", "--terminate")
            ended.result()
    assert f"Asking {instance} to end." in output
    assert "is gone" in output
    assert instances() == []


def end_when_asked(keys: Keys, registry: Registry, instance: str, store: Store) -> None:
    """What the instance's sidecar does: leave etcd, and end the machine."""
    until(lambda: read_all_requests(store, keys), "somebody asks the node to drain", STARTING_S)
    registry.leave()
    client("ec2").terminate_instances(InstanceIds=[instance])


def test_what_could_not_start_is_refused_before_anything_is_made(file: str) -> None:
    wrong = CONFIG.replace(DEMO_IMAGE_ID, "ami-0ffffffffffffffff", 1).replace("g5.xlarge", "g5.huge")
    Path(file).write_text(wrong.replace("eu-central-1a]", "eu-central-1x]"))
    refusal = run("bootstrap", "apply", file, code=5)
    assert "the image ami-0ffffffffffffffff does not exist" in refusal
    assert "the instance type g5.huge does not exist" in refusal
    assert "the zone eu-central-1x has no default subnet" in refusal
    assert client("ec2").describe_launch_templates()["LaunchTemplates"] == []


def test_a_probe_launched_by_the_schedule_or_by_wake_is_the_same(file: str) -> None:
    Path(file).write_text(PROBE)
    run("bootstrap", "apply", file)
    (listed,) = client("scheduler").list_schedules()["Schedules"]
    schedule = client("scheduler").get_schedule(Name=listed["Name"])
    assert schedule["ScheduleExpression"] == "rate(5 minutes)"
    # What the scheduler does at each execution; a second delivery of the same one starts nothing.
    call = json.loads(schedule["Target"]["Input"].replace("<aws.scheduler.execution-id>", "d32c5kddcf5bb8c3"))
    for _ in range(2):
        client("ec2").run_instances(**call)
    assert "Launched the probe i-" in run("wake", file, "--again", "--no-wait")
    scheduled, woken = instances()
    for probe in (scheduled, woken):
        tags = {tag["Key"]: tag["Value"] for tag in probe["Tags"] if not tag["Key"].startswith("aws:")}
        assert tags == {"Name": "research-probe", "scaler-sidecar:cluster": "research", "scaler-sidecar:role": "probe"}
        assert probe["InstanceType"] == "t3.micro"
        asked = {"InstanceId": probe["InstanceId"], "Attribute": "userData"}
        text = base64.b64decode(client("ec2").describe_instance_attribute(**asked)["UserData"]["Value"]).decode()
        assert parse_user_data(text).role is NodeRole.PROBE
    assert "is gone" in run("bootstrap", "destroy", file, "--yes", "--terminate"), "probes need nobody's word"
    assert client("scheduler").list_schedules()["Schedules"] == []


def test_without_credentials_it_is_a_sentence_and_exit_code_5(
    double: Ec2DoubleProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "scaler.yaml")
    Path(file).write_text(CONFIG)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", double.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    output = run("bootstrap", "plan", file, code=5)
    assert "there are no AWS credentials" in output
