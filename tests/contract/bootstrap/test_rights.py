"""What the roles of the stack may and may not do, judged by a policy simulator.

The launches are those that the leader really sends (``launch_parameters``) and that the schedule really sends, merged with the
stack's launch templates: a right that is missing for a real call fails here, and so does one that is too much.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.bootstrapping.ground import Ground, PoolGround
from scaler_plugin.bootstrapping.requirements import references
from scaler_plugin.bootstrapping.template import render_template
from scaler_plugin.cloud.ec2 import launch_parameters
from scaler_plugin.config.launches import launch_candidates
from scaler_plugin.config.load import load_file
from scaler_plugin.core.model import LaunchId, LaunchRequest, PoolName

from .iam_requests import Check, checks_of_launch, ec2_arn, tagging
from .resolving import ACCOUNT, IDS, REGION, resolve

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[3]
SIMULATOR = "@cloud-copilot/iam-simulate@0.1.173"

CONFIG = load_file(ROOT / "docs" / "examples" / "bootstrap.yaml")
GROUND = Ground("vpc-0a1b2c3d4e5f60718", {p.name: PoolGround(p.subnets, "/dev/sda1", 20, p.ami) for p in CONFIG.pools})
OWN_TAGS = {"scaler-sidecar:cluster": "research"}
OTHERS_TAGS = {"scaler-sidecar:cluster": "somebody-elses"}


@dataclass(frozen=True)
class Case:
    """``who`` is the logical id of a role. Everything in ``checks`` must be allowed for the request to be allowed."""

    request: str
    who: str
    allowed: bool
    checks: list[Check]


def stack() -> dict[str, Any]:
    return render_template(CONFIG, GROUND, "cluster: research\n")["Resources"]


def data_of(logical_id: str) -> dict[str, Any]:
    data: dict[str, Any] = resolve(stack()[logical_id]["Properties"]["LaunchTemplateData"])
    return data


def request(pool: str = "gpu", number: int = 0) -> LaunchRequest:
    return launch_candidates(CONFIG, PoolName(pool), LaunchId("research-1"), 2, "cluster: research\n")[number]


def launch(
    what: LaunchRequest | None = None,
    change: Callable[[dict[str, Any]], object] = lambda _parameters: None,
    template: str | None = "PoolGpu",
    template_id: str | None = None,
    region: str = REGION,
) -> list[Check]:
    """The leader's call, changed as a thief of its rights might."""
    parameters = launch_parameters(what or request(), "token-0")
    change(parameters)
    data = data_of(template) if template else None
    return checks_of_launch(parameters, data, template_id or (IDS[template] if template else None), region)


def scheduled(change: Callable[[dict[str, Any]], object] = lambda _parameters: None) -> list[Check]:
    target = resolve(stack()["ProbeSchedule"]["Properties"]["Target"])
    parameters = json.loads(target["Input"])
    change(parameters)
    template = parameters["LaunchTemplate"]["LaunchTemplateId"]
    logical_id = next(name for name, known in IDS.items() if known == template)
    data = {**data_of("ProbeTemplate"), **({} if logical_id == "ProbeTemplate" else data_of(logical_id))}
    return checks_of_launch(parameters, data, template)


def without_tag(key: str, kind: str = "instance") -> Callable[[dict[str, Any]], object]:
    def change(parameters: dict[str, Any]) -> None:
        for specification in parameters["TagSpecifications"]:
            if specification["ResourceType"] == kind:
                specification["Tags"] = [tag for tag in specification["Tags"] if tag["Key"] != key]

    return change


def with_tag(key: str, value: str) -> Callable[[dict[str, Any]], object]:
    def change(parameters: dict[str, Any]) -> None:
        for specification in parameters["TagSpecifications"]:
            specification["Tags"] = [
                {"Key": key, "Value": value} if tag["Key"] == key else tag for tag in specification["Tags"]
            ]

    return change


def volume(device: str = "/dev/sda1", **given: Any) -> Callable[[dict[str, Any]], object]:
    """Words about a volume, over what the template says about the same device."""
    if device != "/dev/sda1":
        given = {"Encrypted": True, **given}
    return lambda parameters: parameters.update(BlockDeviceMappings=[{"DeviceName": device, "Ebs": given}])


def other_launch(action: str) -> list[Check]:
    """Another call that makes instances, with all that makes RunInstances allowed."""
    return [Check(action, OTHER_WAYS_TO_LAUNCH[action], launch()[0].context)]


def on_instance(action: str, tags: Mapping[str, str], region: str = REGION, account: str = ACCOUNT) -> list[Check]:
    context = {f"aws:ResourceTag/{key}": value for key, value in tags.items()}
    return [Check(action, ec2_arn("instance", "i-0123456789abcdef0", region, account), context)]


def ssm(name: str, action: str = "ssm:GetParameter", region: str = REGION) -> list[Check]:
    return [Check(action, f"arn:aws:ssm:{region}:{ACCOUNT}:parameter/{name}")]


def secret(name: str, action: str = "secretsmanager:GetSecretValue") -> list[Check]:
    return [Check(action, f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}-AbCdEf")]


def pass_role(role: str, service: str) -> list[Check]:
    return [Check("iam:PassRole", role, {"iam:PassedToService": service})]


def listing(region: str) -> list[Check]:
    return [Check("ec2:DescribeInstances", "*", {"aws:RequestedRegion": region})]


#: Each with what IAM judges it by.
OTHER_WAYS_TO_LAUNCH = {
    "ec2:CreateFleet": ec2_arn("fleet", "*"),
    "ec2:RequestSpotInstances": ec2_arn("spot-instances-request", "*"),
    "ec2:RequestSpotFleet": ec2_arn("spot-fleet-request", "*"),
    "ec2:CreateCapacityReservation": ec2_arn("capacity-reservation", "*"),
    "ec2:AllocateHosts": ec2_arn("dedicated-host", "*"),
    "ec2:PurchaseReservedInstancesOffering": "*",
    "autoscaling:CreateAutoScalingGroup": (
        f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:*:autoScalingGroupName/mine"
    ),
}
CHANGES = (
    "ec2:ModifyInstanceAttribute", "ec2:ModifyInstanceMetadataOptions", "ec2:AssociateIamInstanceProfile",
    "ec2:ReplaceIamInstanceProfileAssociation", "ec2:RebootInstances", "ec2:AttachVolume", "ec2:GetPasswordData",
    "ec2-instance-connect:SendSSHPublicKey", "ssm:SendCommand", "ssm:StartSession",
)  # fmt: skip
NODE, PROBE = "NodeRole", "ProbeRole"
ADMIN_ROLE = f"arn:aws:iam::{ACCOUNT}:role/admin"
ADMIN_PROFILE = f"arn:aws:iam::{ACCOUNT}:instance-profile/admin"
FOREIGN_TEMPLATE = "lt-0ffffffffffffffff"


def cases() -> list[Case]:
    def no(request: str, checks: list[Check], who: str = NODE) -> Case:
        return Case(request, who, False, checks)

    def yes(request: str, checks: list[Check], who: str = NODE) -> Case:
        return Case(request, who, True, checks)

    spoken = lambda **given: lambda parameters: parameters.update(given)  # noqa: E731
    metadata = {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1}
    return [
        yes("launch a pool's preferred type", launch()),
        yes("launch its second type in its second subnet", launch(request(number=3))),
        yes("launch another pool by its own template", launch(request("cpu"), template="PoolCpu")),
        yes("launch with gp3's own speed, said aloud", launch(change=volume(Iops=3000, Throughput=125))),
        yes("terminate an instance of the cluster", on_instance("ec2:TerminateInstances", OWN_TAGS)),
        yes("read the console of an instance of the cluster", on_instance("ec2:GetConsoleOutput", OWN_TAGS)),
        yes("list the instances of its region", listing(REGION)),
        *(yes(f"read the cluster's {ref}", ssm(ref.name.lstrip("/"))) for ref in references(CONFIG).values()),
        yes("read a secret of the cluster", secret("scaler-sidecar/research/git-token")),
        yes("let the schedule launch the probe", scheduled(), PROBE),
        no("launch without a launch template", launch(template=None, change=_complete)),
        no("launch by a foreign template", launch(template_id=FOREIGN_TEMPLATE)),
        no("launch a worker by the probe's template", launch(request("cpu"), template="ProbeTemplate")),
        no("launch without the cluster's tag", launch(change=_untagged, template=None, template_id=IDS["PoolGpu"])),
        no(
            "launch with the tag of another cluster",
            launch(change=with_tag("scaler-sidecar:cluster", "somebody-elses")),
        ),
        no(
            "launch for a pool that is not the cluster's", launch(change=with_tag("scaler-sidecar:pool", "secret-pool"))
        ),
        no("launch without the launch's tag", launch(change=without_tag("scaler-sidecar:launch"))),
        no("launch a bigger type", launch(change=spoken(InstanceType="p5.48xlarge"))),
        no("launch another image", launch(change=spoken(ImageId="ami-0ffffffffffffffff"))),
        no("launch in a foreign subnet", launch(change=spoken(SubnetId="subnet-0ffffffffffffffff"))),
        no("launch with a foreign security group", launch(change=spoken(SecurityGroupIds=["sg-0ffffffffffffffff"]))),
        no("launch with a key pair of one's own", launch(change=spoken(KeyName="mine"))),
        no("launch with another instance profile", launch(change=spoken(IamInstanceProfile={"Arn": ADMIN_PROFILE}))),
        no("launch in another region", launch(region="us-east-1")),
        no(
            "launch with metadata that wants no token",
            launch(change=spoken(MetadataOptions={**metadata, "HttpTokens": "optional"})),
        ),
        no(
            "launch with metadata that containers reach",
            launch(change=spoken(MetadataOptions={**metadata, "HttpPutResponseHopLimit": 2})),
        ),
        no(
            "launch with a volume in clear",
            launch(change=spoken(BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"Encrypted": False}}])),
        ),
        no("launch with a bigger volume", launch(change=volume(VolumeSize=21))),
        no("launch with a volume of another kind", launch(change=volume(VolumeType="io2", Iops=3000))),
        no("launch with a faster volume", launch(change=volume(Iops=3001))),
        no("launch with a volume of more throughput", launch(change=volume(Throughput=1000))),
        no(
            "launch with one more, bigger volume",
            launch(change=volume("/dev/sdb", VolumeSize=16_000, VolumeType="gp3")),
        ),
        no(
            "launch with a volume of a foreign snapshot",
            launch(change=volume("/dev/sdb", VolumeSize=8, VolumeType="gp3", SnapshotId="snap-0ffffffffffffffff")),
        ),
        no("launch on dedicated hardware", launch(change=spoken(Placement={"Tenancy": "dedicated"}))),
        no("launch on a dedicated host", launch(change=spoken(Placement={"Tenancy": "host"}))),
        *(no(f"call {action} for more instances", other_launch(action)) for action in OTHER_WAYS_TO_LAUNCH),
        *(no(f"call {action} on an instance of the cluster", on_instance(action, OWN_TAGS)) for action in CHANGES),
        no("make a volume", [Check("ec2:CreateVolume", ec2_arn("volume", "*"), {"ec2:Encrypted": "true"})]),
        no("make an image of a worker's disk", on_instance("ec2:CreateImage", OWN_TAGS)),
        no("terminate a foreign instance", on_instance("ec2:TerminateInstances", {"Name": "database"})),
        no("terminate an instance of another cluster", on_instance("ec2:TerminateInstances", OTHERS_TAGS)),
        no("terminate an instance without tags", on_instance("ec2:TerminateInstances", {})),
        no("terminate in another region", on_instance("ec2:TerminateInstances", OWN_TAGS, region="us-east-1")),
        no("terminate in another account", on_instance("ec2:TerminateInstances", OWN_TAGS, account="999999999999")),
        no("read a foreign console", on_instance("ec2:GetConsoleOutput", {})),
        no("stop a foreign instance", on_instance("ec2:StopInstances", {})),
        no("start a foreign instance", on_instance("ec2:StartInstances", OTHERS_TAGS)),
        no(
            "make a foreign instance the cluster's own by a tag", [tagging("instance", "i-0123456789abcdef0", OWN_TAGS)]
        ),
        no("tag another cluster's in a launch", [tagging("instance", "*", OTHERS_TAGS, created_by="RunInstances")]),
        no("take tags off", on_instance("ec2:DeleteTags", OWN_TAGS)),
        no("list instances of another region", listing("us-east-1")),
        no("pass another role to EC2", pass_role(ADMIN_ROLE, "ec2.amazonaws.com")),
        no("pass its own role to Lambda", pass_role(IDS["NodeRole.Arn"], "lambda.amazonaws.com")),
        no("read a parameter of another cluster", ssm("scaler-sidecar/secret-project/etcd-key")),
        no("read a parameter of a cluster whose name begins alike", ssm("scaler-sidecar/research-2/etcd-key")),
        no("read a parameter of nobody", ssm("production/database-password")),
        no("read a parameter in another region", ssm("scaler-sidecar/research/etcd-key", region="us-east-1")),
        no("write a parameter of the cluster", ssm("scaler-sidecar/research/etcd-key", "ssm:PutParameter")),
        no("read a foreign secret", secret("production/database")),
        no("overwrite a secret", secret("scaler-sidecar/research/git-token", "secretsmanager:PutSecretValue")),
        no(
            "write a new version of a launch template",
            [Check("ec2:CreateLaunchTemplateVersion", ec2_arn("launch-template", IDS["PoolGpu"]))],
        ),
        no("let the schedule launch a pool's worker", scheduled(_by_pool_template), PROBE),
        no("let the schedule launch a bigger type", scheduled(spoken(InstanceType="p5.48xlarge")), PROBE),
        no("let the schedule launch a bigger volume", scheduled(volume(VolumeSize=100)), PROBE),
        no("let the schedule launch a faster volume", scheduled(volume(VolumeType="io2", Iops=64_000)), PROBE),
        no(
            "let the schedule launch on dedicated hardware",
            scheduled(spoken(Placement={"Tenancy": "dedicated"})),
            PROBE,
        ),
        no("let the schedule launch without the tag", scheduled(with_tag("scaler-sidecar:cluster", "other")), PROBE),
        no("let the schedule launch elsewhere", scheduled(spoken(SubnetId="subnet-0ffffffffffffffff")), PROBE),
        no("let the schedule terminate", on_instance("ec2:TerminateInstances", OWN_TAGS), PROBE),
        no("let the schedule read a secret", ssm("scaler-sidecar/research/etcd-key"), PROBE),
        no("let the schedule pass another role", pass_role(ADMIN_ROLE, "ec2.amazonaws.com"), PROBE),
    ]


def _complete(parameters: dict[str, Any]) -> None:
    """A call that is whole without a template, otherwise all as it should be."""
    del parameters["LaunchTemplate"]
    data = data_of("PoolGpu")
    parameters.update({k: v for k, v in data.items() if k not in parameters and k != "TagSpecifications"})


def _untagged(parameters: dict[str, Any]) -> None:
    template = data_of("PoolGpu")
    parameters.update({k: v for k, v in template.items() if k not in parameters and k != "TagSpecifications"})
    parameters["TagSpecifications"] = []


def _by_pool_template(parameters: dict[str, Any]) -> None:
    parameters["LaunchTemplate"]["LaunchTemplateId"] = IDS["PoolGpu"]
    parameters["InstanceType"] = "g5.xlarge"


CASES = cases()


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulator, installed by npm into a folder of this run; it is no part of what is shipped."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("This needs node and npm: on Debian and Ubuntu apt-get install nodejs npm.")
    folder = tmp_path_factory.mktemp("simulator")
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder, SIMULATOR],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "npm_config_update_notifier": "false"},
    )  # fmt: skip
    assert done.returncode == 0, f"npm could not install {SIMULATOR}: {done.stderr[-500:]}"
    return folder


@pytest.fixture(scope="module")
def answers(simulator: Path) -> dict[str, list[dict[str, Any]]]:
    """For each case, by its request, the simulator's answer to each of its checks."""
    found: dict[str, list[dict[str, Any]]] = {}
    for who in (NODE, PROBE):
        mine = [case for case in CASES if case.who == who]
        answered = simulate(simulator, who, [check for case in mine for check in case.checks])
        for case in mine:
            found[case.request], answered = answered[: len(case.checks)], answered[len(case.checks) :]
    return found


def simulate(simulator: Path, who: str, checks: list[Check]) -> list[dict[str, Any]]:
    policies = [
        {"name": name, "policy": resolve(resource["Properties"]["PolicyDocument"])}
        for name, resource in stack().items()
        if resource["Type"] == "AWS::IAM::Policy" and resource["Properties"]["Roles"] == [{"Ref": who}]
    ]
    assert policies
    question = {
        "principal": IDS[f"{who}.Arn"],
        "accountId": ACCOUNT,
        "policies": policies,
        "checks": [{"action": c.action, "resource": c.resource, "context": dict(c.context)} for c in checks],
    }
    script = Path(__file__).with_name("simulate.mjs")
    done = subprocess.run(
        ["node", script, simulator / "package.json"],
        input=json.dumps(question), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    answered: list[dict[str, Any]] = json.loads(done.stdout)
    return answered


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{'may' if case.allowed else 'may not'} {case.request}")
def test_rights(case: Case, answers: dict[str, list[dict[str, Any]]]) -> None:
    answered = answers[case.request]
    errors = [
        (check, answer["error"]) for check, answer in zip(case.checks, answered, strict=True) if "error" in answer
    ]
    assert not errors, "the simulator did not understand the request"
    refused = [
        f"{check.action} on {check.resource}"
        for check, answer in zip(case.checks, answered, strict=True)
        if answer["result"] != "Allowed"
    ]
    assert bool(refused) is not case.allowed, f"refused: {refused}"


def test_most_cases_are_denials() -> None:
    denials = sum(not case.allowed for case in CASES)
    assert len(CASES) >= 25
    assert denials > len(CASES) / 2
