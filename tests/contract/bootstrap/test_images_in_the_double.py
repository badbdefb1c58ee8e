"""A pool's image by name: `bootstrap apply` looks it up, `config push` publishes it, `bootstrap first` launches it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from typer.testing import CliRunner

from scaler_plugin.cli.app import app
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID, Ec2DoubleProcess
from scaler_plugin.localcloud.etcd import EtcdProcess

from .double_as_aws import use_as_aws

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("images_in_the_double")]

GOLDEN, FIRST, SECOND = "ami-0golden", "ami-0first", "ami-0second"
CONFIG = f"""
cluster: research
zero: {{mode: standby}}
aws: {{region: eu-central-1, stack: research-stack}}
pools:
  - name: cpu
    queues: [default]
    instance_types: [c6i.xlarge]
    ami: name:*-ami-0golden
    max_instances: 4
  - name: gpu
    queues: [gpu-tasks]
    instance_types: [g5.xlarge]
    ami: resolve:ssm:/golden/gpu
    max_instances: 2
  - name: fixed
    queues: [others]
    instance_types: [c6i.xlarge]
    ami: {DEMO_IMAGE_ID}
    max_instances: 2
"""


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ec2DoubleProcess]:
    double = Ec2DoubleProcess(
        tmp_path_factory.mktemp("double"), end_after_s=0.0, boot_after_s=0.0, images=[GOLDEN, FIRST, SECOND]
    )
    double.start()
    yield double
    double.stop()


@pytest.fixture
def file(double: Ec2DoubleProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A configuration, an etcd for it, and a process whose AWS is the double."""
    use_as_aws(double, monkeypatch)
    path = tmp_path / "scaler.yaml"
    path.write_text(CONFIG)
    with EtcdProcess() as etcd:
        monkeypatch.setenv("SCALER_ETCD", etcd.endpoint)
        yield path


def client(service: str) -> Any:
    return boto3.client(service, region_name="eu-central-1")


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def published_images() -> list[str]:
    return [pool["ami"] for pool in yaml.safe_load(run("config", "show", "--cluster", "research"))["pools"]]


def keep_id_in_parameter(ami: str) -> None:
    client("ssm").put_parameter(Name="/golden/gpu", Type="String", Value=ami, Overwrite=True)


def test_an_image_by_name_lives_through_apply_push_and_launch_and_moves_with_the_next_apply(file: Path) -> None:
    assert "is valid" in run("config", "validate", file)
    said = run("bootstrap", "plan", file, code=5)
    assert "Pool gpu: resolve:ssm:/golden/gpu: the parameter does not exist" in said

    keep_id_in_parameter(FIRST)
    said = run("config", "push", file, code=2)
    assert "Call `scaler-sidecar bootstrap apply` first" in said
    said = run("bootstrap", "apply", file)
    assert f"Pool cpu: name:*-ami-0golden is {GOLDEN} (scaler-sidecar-{GOLDEN})." in said
    assert f"Pool gpu: resolve:ssm:/golden/gpu is {FIRST} (scaler-sidecar-{FIRST})." in said
    assert f"Pool gpu: resolve:ssm:/golden/gpu is {FIRST}." in run("config", "push", file)
    assert published_images() == [GOLDEN, FIRST, DEMO_IMAGE_ID]

    keep_id_in_parameter(SECOND)
    assert "Unchanged" in run("config", "push", file)
    run("bootstrap", "first", file, "--pool", "gpu", "--no-wait")
    (launched,) = [i for r in client("ec2").describe_instances()["Reservations"] for i in r["Instances"]]
    assert launched["ImageId"] == FIRST

    assert f"{FIRST} → {SECOND}" in run("bootstrap", "plan", file)
    run("bootstrap", "apply", file)
    assert "Pushed" in run("config", "push", file)
    assert published_images() == [GOLDEN, SECOND, DEMO_IMAGE_ID]
