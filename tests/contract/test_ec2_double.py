"""The EC2 double keeps EC2's promises where moto does not, and its state through SIGKILL."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from scaler_plugin.cloud.ec2 import launch_parameters
from scaler_plugin.core.model import LaunchId, LaunchRequest, Market, PoolName, Volume
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID, Ec2DoubleProcess

from ..waiting import STARTING_S, until

pytestmark = pytest.mark.real

LAUNCH = {"ImageId": DEMO_IMAGE_ID, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Ec2DoubleProcess]:
    double = Ec2DoubleProcess(tmp_path)
    double.start()
    yield double
    double.stop()


def client(double: Ec2DoubleProcess, service: str = "ec2") -> Any:
    return boto3.client(
        service,
        region_name="eu-west-1",
        endpoint_url=double.url,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )


def control(double: Ec2DoubleProcess, path: str, value: object = None, method: str | None = None) -> Any:
    body = None if value is None else json.dumps(value).encode()
    with urllib.request.urlopen(urllib.request.Request(double.url + path, data=body, method=method)) as answer:
        return json.load(answer)


def launch(double: Ec2DoubleProcess, **changes: Any) -> list[str]:
    return [i["InstanceId"] for i in client(double).run_instances(**{**LAUNCH, **changes})["Instances"]]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


def listed(double: Ec2DoubleProcess) -> list[dict[str, Any]]:
    reservations = client(double).describe_instances()["Reservations"]
    return [instance for reservation in reservations for instance in reservation["Instances"]]


def states(double: Ec2DoubleProcess) -> list[str]:
    return [instance["State"]["Name"] for instance in listed(double)]


def test_the_maximum_count_is_launched(double: Ec2DoubleProcess) -> None:
    assert len(launch(double, MinCount=1, MaxCount=7)) == 7
    assert states(double) == ["pending"] * 7


def test_a_client_token_launches_once(double: Ec2DoubleProcess) -> None:
    first = launch(double, MaxCount=2, ClientToken="t")
    assert launch(double, MaxCount=2, ClientToken="t") == first
    assert refusal(lambda: launch(double, MaxCount=3, ClientToken="t")) == "IdempotentParameterMismatch"
    assert len(listed(double)) == 2


def test_everything_is_the_same_after_sigkill(double: Ec2DoubleProcess) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "k", "Value": "ü"}]}]
    running, ended, pending = launch(double, MaxCount=3, ClientToken="t", UserData="a: ü\n", TagSpecifications=tags)
    refusal(lambda: launch(double, ImageId="ami-0123456789abcdef0"))
    later = launch(double, InstanceMarketOptions={"MarketType": "spot"})
    vpc = client(double).create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    control(double, f"/_instances/{running}/state", {"state": "running"})
    client(double).terminate_instances(InstanceIds=[ended])
    client(double).create_tags(Resources=[pending], Tags=[{"Key": "late", "Value": "1"}])
    urllib.request.urlopen(f"{double.url}/_instances/{running}/console", data=b"booted").close()
    before, machines, calls = listed(double), control(double, "/_instances"), control(double, "/_journal")
    url = double.url

    double.kill()
    assert double.start() == url

    assert listed(double) == before
    assert control(double, "/_instances") == machines
    assert control(double, "/_journal")[: len(calls)] == calls
    assert [i["State"]["Name"] for i in before] == ["running", "shutting-down", "pending", "pending"]
    assert client(double).get_console_output(InstanceId=running)["Output"] == "booted"
    assert vpc in [v["VpcId"] for v in client(double).describe_vpcs()["Vpcs"]]
    assert launch(double, MaxCount=3, ClientToken="t", UserData="a: ü\n", TagSpecifications=tags) == [
        running,
        ended,
        pending,
    ]
    assert not set(launch(double)) & {running, ended, pending, *later}


def test_a_line_torn_by_the_kill_is_dropped(double: Ec2DoubleProcess, tmp_path: Path) -> None:
    (kept,) = launch(double)
    double.kill()
    with (tmp_path / "changes.jsonl").open("a") as changes:
        changes.write('{"at":17')
    double.start()
    assert [i["InstanceId"] for i in listed(double)] == [kept]
    launch(double)
    double.kill()
    double.start()
    assert len(listed(double)) == 2


def test_the_double_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scaler_plugin.localcloud.ec2", "--state", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("READY http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=STARTING_S)
    assert (process.returncode, said) == (0, "")


def test_the_double_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from scaler_plugin.localcloud.ec2 import Ec2DoubleProcess\n"
        "double = Ec2DoubleProcess(Path(sys.argv[1])); double.start(); print(double.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_no_change_leaves_half_a_launch_behind(double: Ec2DoubleProcess) -> None:
    mapping = [{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": "snap-00000000000000bad"}}]
    refusal(lambda: launch(double, MaxCount=3, BlockDeviceMappings=mapping))
    assert listed(double) == []


def test_user_data_is_limited(double: Ec2DoubleProcess) -> None:
    launch(double, UserData="x" * 16384)
    assert refusal(lambda: launch(double, UserData="x" * 16385)) == "InvalidParameterValue"


def test_a_minimum_above_the_maximum_is_refused(double: Ec2DoubleProcess) -> None:
    assert refusal(lambda: launch(double, MinCount=3, MaxCount=2)) == "InvalidParameterValue"


def test_a_key_pair_must_exist(double: Ec2DoubleProcess) -> None:
    assert refusal(lambda: launch(double, KeyName="mine")) == "InvalidKeyPair.NotFound"
    client(double).create_key_pair(KeyName="mine")
    launch(double, KeyName="mine")


def test_an_instance_profile_must_exist(double: Ec2DoubleProcess) -> None:
    assert refusal(lambda: launch(double, IamInstanceProfile={"Name": "worker"})) == "InvalidParameterValue"
    client(double, "iam").create_instance_profile(InstanceProfileName="worker")
    launch(double, IamInstanceProfile={"Name": "worker"})


def test_a_guest_that_shuts_down_is_treated_as_its_launch_asked(double: Ec2DoubleProcess) -> None:
    (ending,) = launch(double, InstanceInitiatedShutdownBehavior="terminate")
    (stopping,) = launch(double, InstanceInitiatedShutdownBehavior="stop")
    for instance_id in (ending, stopping):
        control(double, f"/_instances/{instance_id}/state", {"state": "running"})
        control(double, f"/_instances/{instance_id}/shutdown", {})
    assert states(double) == ["shutting-down", "stopping"]
    assert listed(double)[0]["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_the_machine_layer_sees_what_it_must_boot(double: Ec2DoubleProcess) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "k", "Value": "v"}]}]
    spot = {"MarketType": "spot"}
    (instance_id,) = launch(double, UserData="cluster: demo\n", TagSpecifications=tags, InstanceMarketOptions=spot)
    (machine,) = control(double, "/_instances")
    assert machine["id"] == instance_id
    assert (machine["state"], machine["market"], machine["zone"]) == ("pending", "spot", "eu-west-1a")
    assert (machine["user_data"], machine["tags"]) == ("cluster: demo\n", {"k": "v"})


def test_a_terminated_instance_stays_so(double: Ec2DoubleProcess) -> None:
    (instance_id,) = launch(double)
    reason = {"state": "terminated", "code": "Server.SpotInstanceTermination", "reason": "no capacity"}
    control(double, f"/_instances/{instance_id}/state", reason)
    with pytest.raises(urllib.error.HTTPError) as refused:
        control(double, f"/_instances/{instance_id}/state", {"state": "running"})
    assert refused.value.code == 409
    assert listed(double)[0]["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_instances_can_boot_and_end_by_themselves(tmp_path: Path) -> None:
    double = Ec2DoubleProcess(tmp_path, boot_after_s=0.3, end_after_s=0.3)
    double.start()
    try:
        ids = launch(double, MaxCount=2)
        until(lambda: states(double) == ["running", "running"])
        client(double).terminate_instances(InstanceIds=ids[:1])
        until(lambda: states(double) == ["terminated", "running"])
        double.restart()
        assert states(double) == ["terminated", "running"]
    finally:
        double.stop()


def test_a_fault_ends_after_its_number_of_calls(double: Ec2DoubleProcess) -> None:
    control(double, "/_faults", {"action": "RunInstances", "kind": "error", "code": "Oops", "status": 400, "times": 2})
    assert [refusal(lambda: launch(double)) for _ in range(2)] == ["Oops", "Oops"]
    launch(double)


def test_a_fault_ends_after_its_time(double: Ec2DoubleProcess) -> None:
    control(double, "/_faults", {"action": "*", "kind": "throttle", "seconds": 0.0})
    listed(double)
    for seconds in (0.5, 2.0, 8.0, 32.0):  # a call that takes long comes too late for a short one
        control(double, "/_faults", {"action": "*", "kind": "throttle", "seconds": seconds})
        if code := _refusal_of_a_listing(double):
            break
    assert code == "RequestLimitExceeded"
    until(lambda: not _refusal_of_a_listing(double))


def _refusal_of_a_listing(double: Ec2DoubleProcess) -> str:
    """Its code, empty when it was answered."""
    try:
        listed(double)
    except ClientError as refused:
        return str(refused.response["Error"]["Code"])
    return ""


def test_a_fault_meets_only_the_calls_that_match(double: Ec2DoubleProcess) -> None:
    fault = {
        "action": "RunInstances",
        "kind": "no_capacity",
        "match": {"InstanceType": "t3.micro", "zone": "eu-west-1a"},
    }
    control(double, "/_faults", [fault])
    assert refusal(lambda: launch(double)) == "InsufficientInstanceCapacity"
    launch(double, Placement={"AvailabilityZone": "eu-west-1b"})
    subnets = client(double).describe_subnets()["Subnets"]
    by_zone = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in subnets}
    assert refusal(lambda: launch(double, SubnetId=by_zone["eu-west-1a"])) == "InsufficientInstanceCapacity"
    launch(double, SubnetId=by_zone["eu-west-1b"])
    control(double, "/_faults", method="DELETE")
    launch(double)


def test_a_fault_that_is_none_is_refused(double: Ec2DoubleProcess) -> None:
    for wrong in ({"kind": "throttle"}, {"action": "*", "kind": "meteor"}, {"action": "*", "kind": "hang", "tmes": 1}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            control(double, "/_faults", wrong)
        assert refused.value.code == 400
    assert control(double, "/_faults") == []


def test_the_journal_tells_what_was_asked_and_answered(double: Ec2DoubleProcess) -> None:
    request = LaunchRequest(
        cluster="demo",
        pool=PoolName("gpu"),
        launch_id=LaunchId("l-1"),
        count=2,
        instance_type="t3.micro",
        image_id=DEMO_IMAGE_ID,
        market=Market.SPOT,
        volume=Volume("/dev/sda1", 30, "gp3", iops=3000, throughput=125),
        tags=(("team", "vision"), ("scaler-sidecar:cluster", "somebody-else")),
        user_data="cluster: demo\n",
    )
    answered = client(double).run_instances(**launch_parameters(request, "token"))
    (call,) = control(double, "/_journal?action=RunInstances")
    sent = call["parameters"]
    assert call["instance_ids"] == [instance["InstanceId"] for instance in answered["Instances"]]
    assert (call["status"], call["error"], call["region"]) == (200, None, "eu-west-1")
    assert (sent["MinCount"], sent["MaxCount"], sent["ClientToken"]) == ("1", "2", "token")
    assert base64.b64decode(sent["UserData"]) == b"cluster: demo\n"
    assert sent["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert (sent["MetadataOptions.HttpTokens"], sent["MetadataOptions.HttpPutResponseHopLimit"]) == ("required", "1")
    assert sent["InstanceMarketOptions.SpotOptions.SpotInstanceType"] == "one-time"
    assert sent["BlockDeviceMapping.1.Ebs.Throughput"] == "125"
    kinds = [sent["TagSpecification.1.ResourceType"], sent["TagSpecification.2.ResourceType"]]
    assert kinds == ["instance", "volume"]
    assert {tag["Key"]: tag["Value"] for tag in answered["Instances"][0]["Tags"]} == {
        "Name": "demo-gpu",
        "team": "vision",
        "scaler-sidecar:cluster": "demo",
        "scaler-sidecar:pool": "gpu",
        "scaler-sidecar:launch": "l-1",
    }


def test_the_state_is_for_its_owner_only(double: Ec2DoubleProcess, tmp_path: Path) -> None:
    launch(double)
    for name in ("changes.jsonl", "calls.jsonl"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
        assert "secret" not in (tmp_path / name).read_text()
    assert os.listdir(tmp_path / "consoles") == []
