"""Every error of EC2 becomes one of two: refused (nothing happened) or unavailable (nobody can say), in a sentence."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from scaler_plugin.bootstrapping.instances import terminate_each
from scaler_plugin.cloud import ec2
from scaler_plugin.cloud.ec2 import Ec2Fleet
from scaler_plugin.core.model import InstanceId, LaunchId, LaunchRequest, PoolName
from scaler_plugin.errors import CloudError, CloudFailed, CloudRefused, CloudUnavailable
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID, Ec2DoubleProcess

pytestmark = pytest.mark.real

REQUEST = LaunchRequest("demo", PoolName("gpu"), LaunchId("l-1"), 1, "t3.micro", DEMO_IMAGE_ID)


class Double:
    def __init__(self, url: str) -> None:
        self.url = url

    def fail(self, action: str = "RunInstances", **fault: Any) -> None:
        body = json.dumps({"action": action, **fault}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/_faults", data=body)).close()

    def calls(self, action: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/_journal?action={action}") as answer:
            return json.load(answer)

    def heal(self) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/_faults", method="DELETE")).close()


@pytest.fixture(scope="module")
def double_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = Ec2DoubleProcess(tmp_path_factory.mktemp("ec2"))
    yield process.start()
    process.stop()


@pytest.fixture
def double(double_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    double = Double(double_url)
    yield double
    double.heal()


def fleet(double: Double) -> Ec2Fleet:
    return Ec2Fleet("demo", region="eu-west-1", endpoint_url=double.url)


def error_of(call: Callable[[], object]) -> CloudError:
    with pytest.raises(CloudError) as raised:
        call()
    return raised.value


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [
        ("InsufficientInstanceCapacity", 500, "more instance types"),
        ("InsufficientNetworkInterfaceCapacity", 500, "more instance types"),
        ("InsufficientFreeAddressesInSubnet", 503, "another subnet"),
        ("InvalidAMIID.NotFound", 400, "image"),
        ("InvalidAMIID.Malformed", 400, "image"),
        ("UnauthorizedOperation", 403, "Allow this action"),
        ("VcpuLimitExceeded", 400, "Service Quotas"),
        ("MaxSpotInstanceCountExceeded", 400, "Service Quotas"),
        ("InvalidSubnetID.NotFound", 400, "subnets"),
        ("InvalidKeyPair.NotFound", 400, "key_name"),
        ("InvalidGroup.NotFound", 400, "security groups"),
        ("IdempotentParameterMismatch", 400, "report it"),
        ("ExpiredToken", 400, "Renew"),
        ("RequestExpired", 400, "clock"),
        ("AuthFailure", 401, "credentials"),
        ("OptInRequired", 401, "Activate"),
        ("SomethingNew", 400, "SomethingNew"),
    ],
)
def test_a_definite_no_is_refused_with_its_code_and_what_to_do(
    double: Double, code: str, status: int, advice: str
) -> None:
    double.fail(kind="error", code=code, status=status, message="The words of EC2.")
    error = error_of(lambda: fleet(double).run_instances(REQUEST, "token"))
    assert isinstance(error, CloudRefused)
    assert error.code == code
    assert "pool gpu" in str(error)
    assert "The words of EC2" in str(error)
    assert advice in str(error)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("RequestLimitExceeded", 503),
        ("Throttling", 400),
        ("InternalError", 500),
        ("InternalFailure", 500),
        ("Unavailable", 503),
        ("ServiceUnavailable", 503),
    ],
)
def test_a_hiccup_of_the_service_is_unavailable(double: Double, code: str, status: int) -> None:
    double.fail(kind="error", code=code, status=status)
    error = error_of(lambda: fleet(double).run_instances(REQUEST, "token"))
    assert isinstance(error, CloudUnavailable)
    assert error.code == code


@pytest.mark.parametrize(
    ("code", "only_this_call"), [("InternalError", True), ("Unavailable", False), ("RequestLimitExceeded", False)]
)
def test_a_failure_at_one_call_is_told_from_one_of_the_whole_service(
    double: Double, code: str, only_this_call: bool
) -> None:
    double.fail(kind="error", code=code, status=503)
    error = error_of(lambda: fleet(double).run_instances(REQUEST, "token"))
    assert isinstance(error, CloudFailed) is only_this_call


def test_a_right_that_a_launch_lacks_is_the_nodes_or_a_persons_and_both_are_told_where_theirs_stand(
    double: Double,
) -> None:
    double.fail(kind="error", code="UnauthorizedOperation", status=403)
    said = str(error_of(lambda: fleet(double).run_instances(REQUEST, "token")))
    assert "bootstrap/policies/" in said
    assert "Who may do this" in said


def test_a_launch_is_sent_once_even_when_boto3_would_try_again(double: Double) -> None:
    for number, code in enumerate(("InsufficientInstanceCapacity", "InternalError", "RequestLimitExceeded")):
        double.fail(kind="error", code=code, status=500, times=1)
        before = len(double.calls("RunInstances"))
        error_of(lambda number=number: fleet(double).run_instances(REQUEST, f"once-{number}"))
        assert len(double.calls("RunInstances")) == before + 1


def test_a_listing_survives_one_lost_answer(double: Double) -> None:
    double.fail("DescribeInstances", kind="hang", hang_s=0.05, times=1)
    fleet(double).instances()


def test_silence_is_unavailable(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ec2, "READ_TIMEOUT_S", 0.2)
    double.fail(kind="hang", hang_s=5, times=1)
    error = error_of(lambda: fleet(double).run_instances(REQUEST, "token"))
    assert isinstance(error, CloudUnavailable)


def test_an_answer_that_is_not_xml_is_unavailable(double: Double) -> None:
    error = error_of(lambda: Ec2Fleet("demo", "eu-west-1", f"{double.url}/_nothing").run_instances(REQUEST, "token"))
    assert isinstance(error, CloudUnavailable)


def test_nobody_listening_is_unavailable(double: Double) -> None:
    error = error_of(lambda: Ec2Fleet("demo", "eu-west-1", "http://127.0.0.1:9").instances())
    assert isinstance(error, CloudUnavailable)


def test_the_encoded_reason_of_a_denial_comes_with_the_command_that_reads_it(double: Double) -> None:
    message = "You are not authorized to perform this operation. Encoded authorization failure message: aBc-123_xyz"
    double.fail(kind="error", code="UnauthorizedOperation", status=403, message=message)
    error = error_of(lambda: fleet(double).run_instances(REQUEST, "token"))
    assert "aws sts decode-authorization-message --encoded-message aBc-123_xyz" in str(error)


def test_without_credentials_nothing_is_sent(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    before = len(double.calls("RunInstances"))
    error = error_of(lambda: fleet(double).run_instances(REQUEST, "token"))
    assert isinstance(error, CloudRefused)
    assert error.code == "NoCredentials"
    assert len(double.calls("RunInstances")) == before


def test_without_a_region_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    error = error_of(lambda: Ec2Fleet("demo").instances())
    assert isinstance(error, CloudRefused)
    assert "aws.region" in str(error)


def test_what_the_request_itself_gets_wrong_is_refused_as_ec2_does(double: Double) -> None:
    changes = {
        "InvalidKeyPair.NotFound": {"key_name": "nobody"},
        "InvalidSubnetID.NotFound": {"subnet_id": "subnet-0123456789abcdef0"},
        "InvalidGroup.NotFound": {"security_group_ids": ("sg-0123456789abcdef0",)},
        "InvalidInstanceType.NotFound": {"instance_type": "t3.gigantic"},
        "InvalidParameterValue": {"instance_profile": "nobody"},
    }
    for code, change in changes.items():
        request = LaunchRequest(**{**REQUEST.__dict__, **change})
        error = error_of(lambda request=request, code=code: fleet(double).run_instances(request, code))
        assert (type(error), error.code) == (CloudRefused, code)
    assert fleet(double).instances() == ()


@pytest.mark.parametrize("number", [2, 9])
def test_a_call_that_names_a_protected_instance_is_refused_and_not_made_again_for_parts_of_it(
    double: Double, number: int
) -> None:
    ids = with_a_protected_one(double, "whole", number)
    before = len(double.calls("TerminateInstances"))
    error = error_of(lambda: fleet(double).terminate(ids))
    assert (type(error), error.code) == (CloudRefused, "OperationNotPermitted")
    assert len(double.calls("TerminateInstances")) - before == 1


def test_who_wants_the_end_of_all_ends_those_beside_a_protected_one_and_an_unknown_one(double: Double) -> None:
    ids = with_a_protected_one(double, "all", 5)
    error = error_of(lambda: terminate_each(fleet(double), [InstanceId("i-00000000000000bad"), *ids]))
    assert (type(error), error.code) == (CloudRefused, "OperationNotPermitted")
    assert ids[1] in str(error)
    living = [i.instance_id for i in fleet(double).instances_of(LaunchId("all")) if not i.state.ending]
    assert living == [ids[1]]


def with_a_protected_one(double: Double, launch_id: str, number: int) -> tuple[InstanceId, ...]:
    """So many instances; the second of them is protected against termination."""
    client = boto3.client("ec2", region_name="eu-west-1", endpoint_url=double.url)
    launch = LaunchRequest(**{**REQUEST.__dict__, "count": number, "launch_id": LaunchId(launch_id)})
    ids = fleet(double).run_instances(launch, f"{launch_id}-{number}")
    client.modify_instance_attribute(InstanceId=ids[1], DisableApiTermination={"Value": True})
    return ids
