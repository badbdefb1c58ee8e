"""The page on bootstrap names every setting whose change the stack must learn by `apply`, and no other."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler_plugin.bootstrapping.ground import Ground, PoolGround
from scaler_plugin.bootstrapping.node_user_data import user_data_writer
from scaler_plugin.bootstrapping.template import render_template
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.config.pool_schema import PoolConfig
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.section import Section

PAGE = Path(__file__).resolve().parents[3] / "docs" / "bootstrap.md"
CONFIG = """
cluster: research
etcd: {endpoints: ["10.0.0.5:2379"]}
clearml: {api_host: https://api.clear.ml}
aws: {region: eu-central-1, stack: scaler-sidecar-research}
pools:
  - name: gpu
    queues: [default]
    instance_types: [g5.xlarge]
    subnets: [subnet-0a1b2c3d4e5f60718]
    ami: ami-0a1b2c3d4e5f67890
    max_instances: 12
  - name: cpu
    queues: [preprocessing]
    instance_types: [c6i.2xlarge]
    subnets: [subnet-0a1b2c3d4e5f60718]
    ami: ami-0f1e2d3c4b5a69788
    max_instances: 8
    cpu_only: true
    first_boot: {bundle_url: "https://files.example.com/a.tar.gz", bundle_sha256: "%s"}
""" % ("9f" * 32)
SECRET = "ssm:/scaler-sidecar/research/x"
#: Another value for each setting; with a pair, what must change besides. A dot goes into a section.
CHANGES: dict[str, Any] = {
    "cluster": "other",
    "prefix": "other",
    "max_instances": 3,
    "poll_interval": "5s",
    "leader_ttl": "20s",
    "zero.mode": "standby",
    "zero.probe_every": "7m",
    "zero.probe_instance_type": "t3.small",
    "etcd.endpoints": ["10.0.0.6:2379"],
    "etcd.tls": {"ca": SECRET},
    "etcd.user": ("scaler", {"etcd.password": SECRET}),
    "etcd.password": (SECRET, {"etcd.user": "scaler"}),
    "clearml.api_host": "https://api.example.com",
    "clearml.web_host": "https://app.example.com",
    "clearml.files_host": "https://files.example.com",
    "clearml.access_key": (SECRET, {"clearml.secret_key": SECRET}),
    "clearml.secret_key": (SECRET, {"clearml.access_key": SECRET}),
    "aws.region": "eu-west-1",
    "aws.endpoint_url": "https://ec2.example.com",
    "aws.stack": "other",
    "pools[].name": "another",
    "pools[].queues": ["another"],
    "pools[].instance_types": ["m5.large"],
    "pools[].ami": "ami-00000000000000001",
    "pools[].first_boot": {"bundle_url": "https://files.example.com/b.tar.gz", "bundle_sha256": "ab" * 32},
    "pools[].max_instances": 5,
    "pools[].min_instances": 1,
    "pools[].market": "spot",
    "pools[].subnets": ["subnet-1b2c3d4e5f6071829"],
    "pools[].zones": (["eu-central-1b"], {"pools[].subnets": []}),
    "pools[].security_groups": ["sg-0a1b2c3d"],
    "pools[].key_name": "ops",
    "pools[].instance_profile": "other",
    "pools[].volume": {"size_gb": 300},
    "pools[].tags": {"team": "vision"},
    "pools[].idle_timeout": "7m",
    "pools[].startup_timeout": "33m",
    "pools[].max_lifetime": "7d",
    "pools[].sessions_keep_alive": True,
    "pools[].on_interruption": "true\n",
    "pools[].on_interruption_timeout": "50s",
    "pools[].slots_per_node": 2,
    "pools[].docker_image": "busybox",
    "pools[].cpu_only": True,
    "pools[].init_script": "true\n",
    "pools[].extra_clearml_conf": "a: 1\n",
    "pools[].git": {"user": "a", "password": SECRET},
    "pools[].min_free_disk_gb": 9,
    "pools[].freeze_fallback": True,
    "pools[].checks": [{"name": "a", "command": "true"}],
}


def settings(section: type[Section], before: str = "") -> set[str]:
    """Every setting, sections of the cluster opened, those of a pool as wholes."""
    found = set()
    for name, field in section.model_fields.items():
        inner = field.annotation
        if name == "pools":
            found |= {f"pools[].{key}" for key in PoolConfig.model_fields}
        elif isinstance(inner, type) and issubclass(inner, Section):
            found |= settings(inner, f"{before}{name}.")
        else:
            found.add(f"{before}{name}")
    return found


def with_changes(changes: dict[str, Any], pool: int) -> ScalerConfig:
    value = yaml.safe_load(CONFIG)
    for path, new in changes.items():
        at: Any = value
        *above, key = path.replace("pools[]", f"pools.{pool}").split(".")
        for part in above:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        at[key] = copy.deepcopy(new)
    return parse_yaml(json.dumps(value), "test")


def stack(config: ScalerConfig) -> dict[str, Any]:
    grounds = {
        pool.name: PoolGround(pool.subnets or ("subnet-2c3d4e5f607182930",), "/dev/sda1", 20, pool.ami)
        for pool in config.pools
    }
    made: dict[str, Any] = render_template(config, Ground("vpc-1", grounds), user_data_writer(config, {}).probe(config))
    return made


@pytest.fixture(scope="module")
def needed() -> set[str]:
    """The settings of which some change changes the stack."""
    base = stack(with_changes({}, 0))
    found = set()
    for path, change in CHANGES.items():
        new, besides = change if isinstance(change, tuple) else (change, {})
        for pool in (0, 1) if path.startswith("pools[]") else (0,):
            if path == "pools[].zones":
                besides = {"pools[].subnets": []}
            if stack(with_changes({path: new, **besides}, pool)) != base:
                found.add(path)
    return found


def test_each_setting_was_tried() -> None:
    assert set(CHANGES) == settings(ScalerConfig)


def test_the_page_names_those_that_need_apply_and_no_other(needed: set[str]) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Later changes")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows if row[1].startswith("yes") for name in re.findall(r"`([^`]+)`", row[0])}
    assert named == needed
