"""Configurations and accounts that the tests of bootstrap share."""

from __future__ import annotations

import json
from typing import Any

import yaml

from scaler_plugin.bootstrapping.ground import Ground, PoolGround
from scaler_plugin.bootstrapping.template import render_template
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.node.assembly import UserDataWriter

CONFIG = """
cluster: research
zero: {probe_every: 5m}
etcd:
  endpoints: [10.0.0.5:2379]
  user: scaler
  password: ssm:/scaler-sidecar/research/etcd-password
clearml:
  api_host: https://api.clear.ml
  access_key: ssm:/scaler-sidecar/research/clearml-access-key
  secret_key: secretsmanager:scaler-sidecar/research/clearml-secret-key
aws: {region: eu-central-1, stack: scaler-sidecar-research}
pools:
  - name: gpu-spot
    queues: [urgent, default]
    market: spot
    instance_types: [g5.xlarge, g4dn.xlarge]
    subnets: [subnet-0a1b2c3d4e5f60718, subnet-1b2c3d4e5f6071829]
    ami: ami-0a1b2c3d4e5f67890
    max_instances: 12
    volume: {size_gb: 200, throughput: 250}
    tags: {team: vision}
  - name: cpu
    queues: [preprocessing]
    instance_types: [c6i.2xlarge]
    subnets: [subnet-0a1b2c3d4e5f60718]
    ami: ami-0f1e2d3c4b5a69788
    key_name: ops
    max_instances: 8
    cpu_only: true
"""


def config(text: str = CONFIG) -> ScalerConfig:
    return parse_yaml(text, "test")


def ground(of: ScalerConfig) -> Ground:
    where = {
        pool.name: PoolGround(pool.subnets or ("subnet-2c3d4e5f607182930",), "/dev/sda1", 20, pool.ami)
        for pool in of.pools
    }
    return Ground("vpc-0a1b2c3d4e5f60718", where)


def probe_user_data(of: ScalerConfig) -> str:
    return UserDataWriter(EtcdSettings(("10.0.0.5:2379",)), of.prefix).probe(of)


def template(of: ScalerConfig | None = None) -> dict[str, Any]:
    of = of or config()
    made: dict[str, Any] = render_template(of, ground(of), probe_user_data(of))
    return made


def changed(**pool_settings: Any) -> ScalerConfig:
    """The configuration with its last pool changed."""
    value = yaml.safe_load(CONFIG)
    value["pools"][-1].update(pool_settings)
    return parse_yaml(json.dumps(value), "test")
