"""The stack's template: valid to CloudFormation's linter, complete, without a secret, and the same each time."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cfnlint.api import lint
from cfnlint.config import ManualArgs

from scaler_plugin.bootstrapping.ground import Ground
from scaler_plugin.bootstrapping.template import render_template, template_text
from scaler_plugin.config.load import load_file, parse_yaml
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.errors import ConfigError

from .made_up import CONFIG, changed, config, ground, probe_user_data, template

ROOT = Path(__file__).resolve().parents[3]


def many_pools(number: int) -> ScalerConfig:
    value = yaml.safe_load(CONFIG)
    value["pools"] = [{**value["pools"][0], "name": f"gpu-{n}"} for n in range(number)]
    return parse_yaml(json.dumps(value), "test")


def without_probe() -> ScalerConfig:
    return parse_yaml(CONFIG.replace("probe_every: 5m", "mode: standby"), "test")


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(config(), id="two pools and a probe"),
        pytest.param(without_probe(), id="no probe"),
        pytest.param(many_pools(12), id="twelve pools"),
        pytest.param(changed(security_groups=["sg-0a1b2c3d4e5f60718"]), id="a pool with groups of its own"),
    ],
)
def test_cfn_lint_finds_nothing(of: ScalerConfig) -> None:
    text = json.dumps(template(of), indent=1)
    found = lint(text, config=ManualArgs(regions=["eu-central-1"]))
    assert [f"{match.rule.id} {match.message} at {match.path}" for match in found] == []


def test_there_is_one_launch_template_per_pool_and_one_for_the_probe() -> None:
    templates = {
        name: resource["Properties"]["LaunchTemplateName"]
        for name, resource in template()["Resources"].items()
        if resource["Type"] == "AWS::EC2::LaunchTemplate"
    }
    assert templates == {
        "PoolGpuSpot": "scaler-sidecar-research-gpu-spot",
        "PoolCpu": "scaler-sidecar-research-cpu",
        "ProbeTemplate": "scaler-sidecar-research--probe",
    }


def launch_data(name: str) -> dict[str, Any]:
    data: dict[str, Any] = template()["Resources"][name]["Properties"]["LaunchTemplateData"]
    return data


@pytest.mark.parametrize("name", ["PoolGpuSpot", "PoolCpu", "ProbeTemplate"])
def test_every_launch_template_wants_tokens_one_hop_encryption_and_ends_on_shutdown(name: str) -> None:
    data = launch_data(name)
    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert [device["Ebs"]["Encrypted"] for device in data["BlockDeviceMappings"]] == [True]
    for specification in data["TagSpecifications"]:
        assert {"Key": "scaler-sidecar:cluster", "Value": "research"} in specification["Tags"]


def test_nothing_may_come_in() -> None:
    group = template()["Resources"]["NodeSecurityGroup"]["Properties"]
    assert "SecurityGroupIngress" not in group


def condition(policy: str, sid: str, of: ScalerConfig, on: Ground) -> dict[str, Any]:
    document = render_template(of, on, probe_user_data(of))["Resources"][policy]["Properties"]["PolicyDocument"]
    found: dict[str, Any] = next(s for s in document["Statement"] if s["Sid"] == sid)["Condition"]
    return found


@pytest.mark.parametrize(
    ("volume", "size", "types", "iops", "throughput"),
    [
        pytest.param(None, "200", ["gp3"], "3000", "250", id="the other pool's"),
        pytest.param({"size_gb": 500, "iops": 6000, "throughput": 600}, "500", ["gp3"], "6000", "600", id="a fast gp3"),
        pytest.param({"size_gb": 2000, "type": "gp2"}, "2000", ["gp3", "gp2"], "6000", "250", id="gp2 by size"),
        pytest.param({"size_gb": 9, "type": "io2", "iops": 9000}, "200", ["gp3", "io2"], "9000", "250", id="io2"),
    ],
)
def test_launched_volumes_are_bounded_by_the_largest_of_the_pools(
    volume: dict[str, Any] | None, size: str, types: list[str], iops: str, throughput: str
) -> None:
    of = changed(volume=volume)
    found = condition("LaunchPolicy", "LaunchVolume", of, ground(of))
    assert found["NumericLessThanEquals"] == {"ec2:VolumeSize": size}
    assert found["StringEquals"]["ec2:VolumeType"] == types
    assert found["NumericLessThanEqualsIfExists"] == {"ec2:VolumeIops": iops, "ec2:VolumeThroughput": throughput}


def test_the_other_volumes_of_an_image_may_come_with_it() -> None:
    of, on = config(), ground(config())
    more = {name: replace(place, more_gb=(300,), more_types=("st1",)) for name, place in on.pools.items()}
    for policy, sid in (("LaunchPolicy", "LaunchVolume"), ("ProbePolicy", "LaunchProbeVolume")):
        found = condition(policy, sid, of, Ground(on.vpc, more))
        assert found["NumericLessThanEquals"] == {"ec2:VolumeSize": "300"}
        assert found["StringEquals"]["ec2:VolumeType"] == ["gp3", "st1"]


def test_without_the_probe_the_stack_has_no_part_of_it() -> None:
    assert not any("Probe" in name for name in template(without_probe())["Resources"])


def test_the_schedule_calls_run_instances_with_its_execution_as_token() -> None:
    schedule = template()["Resources"]["ProbeSchedule"]["Properties"]
    assert schedule["ScheduleExpression"] == "rate(5 minutes)"
    assert schedule["Target"]["Arn"]["Fn::Sub"].endswith(":scheduler:::aws-sdk:ec2:runInstances")
    call = json.loads(schedule["Target"]["Input"]["Fn::Sub"])
    assert call["ClientToken"] == "<aws.scheduler.execution-id>"
    assert call["LaunchTemplate"] == {"LaunchTemplateId": "${ProbeTemplate}", "Version": "$Latest"}
    assert (call["MinCount"], call["MaxCount"]) == (1, 1)


def test_the_probe_shares_the_image_of_the_first_cpu_pool() -> None:
    assert launch_data("ProbeTemplate")["ImageId"] == "ami-0f1e2d3c4b5a69788"


def test_every_name_in_angle_brackets_is_filled_in() -> None:
    left = set(re.findall(r"<[a-z][a-z.-]*>", json.dumps(template())))
    assert left == {"<aws.scheduler.execution-id>"}


def test_no_secret_and_no_parameter_is_in_it() -> None:
    made = template()
    assert "Parameters" not in made
    text = json.dumps(made)
    assert "ssm:/scaler-sidecar/research/etcd-password" in text, "the probe's user-data names the secret"
    assert "resolve:ssm" not in text


def test_the_same_input_gives_the_same_text() -> None:
    assert template_text(template()) == template_text(template())


def test_pools_whose_logical_ids_would_be_the_same_are_refused() -> None:
    with pytest.raises(ConfigError, match="hyphens"):
        template(parse_yaml(CONFIG.replace("gpu-spot", "a-b").replace("name: cpu", "name: a--b"), "test"))


def test_a_policy_that_would_be_too_long_for_iam_is_refused_before_aws_is_asked() -> None:
    value = yaml.safe_load(CONFIG)
    value["pools"][0]["subnets"] = [f"subnet-{n:017x}" for n in range(120)]
    with pytest.raises(ConfigError, match="IAM takes 10240"):
        template(parse_yaml(json.dumps(value), "test"))


def test_a_configuration_without_a_stack_is_told_which_line_to_add() -> None:
    of = parse_yaml(CONFIG.replace(", stack: scaler-sidecar-research", ""), "test")
    with pytest.raises(ConfigError, match=r"stack: scaler-sidecar-research"):
        render_template(of, ground(of), probe_user_data(of))


def test_the_annotated_example_goes_with_a_stack() -> None:
    assert load_file(ROOT / "docs" / "examples" / "bootstrap.yaml")
    assert template(load_file(ROOT / "docs" / "examples" / "bootstrap.yaml"))


def test_the_sources_people_look_for_are_in_bootstrap() -> None:
    assert (ROOT / "bootstrap" / "stack.yaml").read_text() == (
        ROOT / "scaler_plugin" / "bootstrapping" / "stack.yaml"
    ).read_text()
    assert {path.name for path in (ROOT / "bootstrap" / "policies").iterdir()} == {
        "launch.yaml",
        "node.yaml",
        "probe_schedule.yaml",
    }
