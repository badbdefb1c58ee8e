"""A sidecar finds its region: for secrets of etcd that AWS keeps, and for EC2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from scaler_plugin.cli import node
from scaler_plugin.cloud.metadata import ImdsMetadata
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.config.schema import AwsConfig
from scaler_plugin.coordination.codec import decode, encode
from scaler_plugin.coordination.memory_store import MemoryClient, MemoryStore
from scaler_plugin.core.model import InstanceId, NodeIdentity, NodeRole
from scaler_plugin.errors import CloudUnavailable
from scaler_plugin.node.assembly import assemble, open_fleet
from scaler_plugin.node.clock import SystemClock
from scaler_plugin.node.setup import NodeSetup

REGION = "eu-central-1"
CONFIG = f"""
cluster: demo
aws: {{region: {REGION}}}
etcd:
  endpoints: ["10.0.0.5:2379"]
  tls: {{ca: "ssm:/scaler-sidecar/demo/ca", cert: "ssm:/scaler-sidecar/demo/cert", key: "ssm:/scaler-sidecar/demo/key"}}
pools:
  - {{name: cpu, queues: [q-1], instance_types: [c5.large], ami: ami-12345678, max_instances: 1}}
"""
STANDBY = NodeIdentity("demo", InstanceId("standby-x"), NodeRole.STANDBY, instance_type="standby")


@pytest.fixture(autouse=True)
def no_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Credentials, and nothing that names a region."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("SCALER_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(ImdsMetadata, "region", _not_ec2)
    with mock_aws():
        yield


def _not_ec2(_: ImdsMetadata) -> str:
    raise CloudUnavailable("This is not an EC2 instance.", "NotEc2")


def test_a_standby_reads_etcds_certificates_in_the_region_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ca", "cert", "key"):
        boto3.client("ssm", region_name=REGION).put_parameter(
            Name=f"/scaler-sidecar/demo/{name}", Value=f"the {name}", Type="SecureString"
        )
    file = tmp_path / "scaler.yaml"
    file.write_text(CONFIG)
    given: list[NodeSetup] = []

    def become_sidecar(setup: NodeSetup, *, verbose: bool) -> None:
        given.append(setup)
        raise SystemExit  # the process is the sidecar's from here on

    monkeypatch.setattr("scaler_plugin.node.process.become_sidecar", become_sidecar)
    with pytest.raises(SystemExit):
        node.run(standby=True, config=file)
    kept = sorted((tmp_path / "etcd").iterdir())
    assert len(kept) == 3, "they are there before the sidecar begins, which then loads no boto3 for them"
    opened: list[dict[str, Any]] = []

    def open_store(endpoints: object, **access: Any) -> MemoryClient:
        opened.append(access)
        return MemoryStore(SystemClock()).client("standby")

    monkeypatch.setattr("scaler_plugin.coordination.etcd_store.open_store", open_store)
    assemble(decode(NodeSetup, encode(given[0])), tmp_path)
    assert sorted((tmp_path / "etcd").iterdir()) == kept
    assert [Path(opened[0][name]).read_text() for name in ("ca", "cert", "key")] == ["the ca", "the cert", "the key"]


@pytest.mark.parametrize("known", [AwsConfig(), None])
def test_without_aws_region_in_the_configuration_a_leader_uses_ec2_in_its_own_region(
    known: AwsConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImdsMetadata, "region", lambda _: REGION)
    setup = NodeSetup(STANDBY, EtcdSettings(("127.0.0.1:1",)), "scaler-sidecar")
    assert open_fleet(setup, known).instances() == ()


def test_off_ec2_a_standby_uses_the_region_of_its_file_and_the_configurations_comes_first() -> None:
    setup = NodeSetup(STANDBY, EtcdSettings(("127.0.0.1:1",)), "scaler-sidecar", region=REGION)
    assert open_fleet(setup, AwsConfig()).instances() == ()
    started = boto3.client("ec2", region_name="us-east-1").run_instances(
        ImageId="ami-12345678",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "scaler-sidecar:cluster", "Value": "demo"}]}],
    )["Instances"]
    assert len(open_fleet(setup, AwsConfig(region="us-east-1")).instances()) == len(started)
