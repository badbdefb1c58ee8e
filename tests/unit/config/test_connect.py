from __future__ import annotations

import json
from typing import Any

import pytest

from scaler_plugin.config.connect import find_cluster
from scaler_plugin.config.load import parse_json
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.secret_ref import parse_secret_ref
from scaler_plugin.errors import ConfigError


@pytest.fixture
def config(minimal: dict[str, Any]) -> ScalerConfig:
    tls = {"ca": "/ca", "cert": "/cert", "key": "/key"}
    minimal |= {"prefix": "p", "etcd": {"endpoints": ["file:1"], "tls": tls, "user": "me", "password": "env:PW"}}
    return parse_json(json.dumps(minimal))


def test_an_option_comes_before_the_environment_before_the_file_before_the_default(config: ScalerConfig) -> None:
    environ = {"SCALER_ETCD": "env:1, env:2,"}
    assert find_cluster(environ, etcd="option:1", config=config).etcd.endpoints == ("option:1",)
    assert find_cluster(environ, config=config).etcd.endpoints == ("env:1", "env:2")
    assert find_cluster({}, config=config).etcd.endpoints == ("file:1",)
    assert find_cluster({}).etcd.endpoints == ("127.0.0.1:2379",)


def test_the_cluster_has_the_same_order(config: ScalerConfig) -> None:
    environ = {"SCALER_CLUSTER": "env"}
    assert find_cluster(environ, cluster="option", config=config).cluster == "option"
    assert find_cluster(environ, config=config).cluster == "env"
    assert find_cluster({}, config=config).cluster == "demo"
    assert find_cluster({}).cluster is None


def test_everything_else_comes_from_the_environment_or_the_file(config: ScalerConfig) -> None:
    address = find_cluster({}, config=config)
    assert address.prefix == "p"
    assert (address.etcd.ca, address.etcd.cert, address.etcd.key, address.etcd.user) == ("/ca", "/cert", "/key", "me")
    assert address.etcd.password == parse_secret_ref("env:PW")
    environ = {
        "SCALER_PREFIX": "q",
        "SCALER_ETCD_CA": "/c",
        "SCALER_ETCD_CERT": "/d",
        "SCALER_ETCD_KEY": "/e",
        "SCALER_ETCD_USER": "you",
        "SCALER_ETCD_PASSWORD_FILE": "/f",
    }
    address = find_cluster(environ, config=config)
    assert address.prefix == "q"
    assert (address.etcd.ca, address.etcd.cert, address.etcd.key, address.etcd.user) == ("/c", "/d", "/e", "you")
    assert address.etcd.password == parse_secret_ref("file:/f")


def test_a_user_from_the_environment_never_gets_the_files_password(config: ScalerConfig) -> None:
    with pytest.raises(ConfigError, match="SCALER_ETCD_USER is set without a password; set SCALER_ETCD_PASSWORD_FILE"):
        find_cluster({"SCALER_ETCD_USER": "you"}, config=config)


def test_a_password_without_a_user_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="SCALER_ETCD_PASSWORD_FILE is set without a user; set SCALER_ETCD_USER"):
        find_cluster({"SCALER_ETCD_PASSWORD_FILE": "/f"})


def test_a_list_without_an_endpoint_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="SCALER_ETCD names no endpoint; write a comma list"):
        find_cluster({"SCALER_ETCD": " , "})
