"""What a machine is set up as, the agents' configuration, and the machine's own load and shutdown."""

from __future__ import annotations

import re
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.secret_ref import SecretRef, SecretSource
from scaler_plugin.core.model import InstanceId, LaunchId, Market, NodeIdentity, NodeRole, PoolName, QueueName
from scaler_plugin.errors import ConfigError, HostError
from scaler_plugin.node.clearml_conf import clearml_conf, machine_conf, write_clearml_conf
from scaler_plugin.node.host import LocalHost
from scaler_plugin.node.setup import NodeSetup, read_setup, state_dir, write_setup

SETUP = NodeSetup(
    NodeIdentity(
        "c", InstanceId("i-1"), NodeRole.WORKER, PoolName("gpu"), "g5.xlarge", Market.SPOT, "eu-1a", LaunchId("l")
    ),
    EtcdSettings(
        ("10.0.0.1:2379",), ca="/etc/ca.pem", user="u", password=SecretRef(SecretSource.FILE, "/run/etcd-password")
    ),
    "scaler",
    slots=2,
    queues=(QueueName("a"), QueueName("b")),
    docker_image="nvidia/cuda:12",
)


def test_a_setup_is_read_as_it_was_written_and_holds_no_secret(tmp_path: Path) -> None:
    write_setup(tmp_path / "new", SETUP)
    assert read_setup(tmp_path / "new") == SETUP
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["node.json"]
    assert SETUP.worker_ids == ("c:gpu:g5.xlarge:i-1:0", "c:gpu:g5.xlarge:i-1:1")


def test_a_machine_that_was_not_set_up_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"scaler-sidecar boot.*run --standby"):
        read_setup(tmp_path)
    (tmp_path / "node.json").write_text('{"identity": 3}')
    with pytest.raises(HostError, match=r"cannot be read: .*Run `scaler-sidecar boot` again"):
        read_setup(tmp_path)


def test_the_state_directory_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALER_STATE_DIR", "/somewhere")
    assert state_dir() == Path("/somewhere")
    monkeypatch.delenv("SCALER_STATE_DIR")
    assert state_dir() == Path("/run/scaler-sidecar")


def config(pool: str = "", clearml: str = "") -> ScalerConfig:
    return parse_yaml(
        f"""
cluster: c
{clearml}
pools:
  - name: cpu
    queues: [q-1]
    instance_types: [c5.large]
    ami: ami-12345678
    max_instances: 1
{pool}
""",
        "test",
    )


def read_hocon(text: str) -> Any:
    """As the agent reads it: with its own HOCON reader."""
    from clearml_agent.external.pyhocon import ConfigFactory  # noqa: PLC0415

    return ConfigFactory.parse_string(text)


NASTY = "a\"b\\c${HOME}#d//e'f\u00fc\u2028 {x} = [1]"


def test_secrets_with_any_characters_arrive_as_they_are_and_stand_over_the_machines_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AK", "key")
    monkeypatch.setenv("SK", NASTY)
    monkeypatch.setenv("GP", NASTY)
    made = config(
        pool="    git: {user: bot, password: 'env:GP'}\n    extra_clearml_conf: |\n      agent.default_docker.image: mine\n",
        clearml="clearml: {api_host: 'http://api:8008', access_key: 'env:AK', secret_key: 'env:SK'}",
    )
    base = 'api { api_server: "http://old:8008", credentials { access_key: old, secret_key: old } }\nsdk { kept: 7 }'
    text = clearml_conf(made, made.pools[0], base)
    assert text is not None
    read = read_hocon(text)
    assert read["api.api_server"] == "http://api:8008"
    assert read["api.credentials.access_key"] == "key"
    assert read["api.credentials.secret_key"] == NASTY
    assert (read["agent.git_user"], read["agent.git_pass"]) == ("bot", NASTY)
    assert read["agent.default_docker.image"] == "mine"
    assert read["sdk.kept"] == 7


def test_the_agent_is_told_to_hide_access_keys_too_when_it_prints_its_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It prints it at each start and into every task's console, where its own list would leave them readable."""
    monkeypatch.setenv("AK", "key")
    made = config(clearml="clearml: {access_key: 'env:AK', secret_key: 'env:AK'}")
    text = clearml_conf(made, made.pools[0], "")
    assert text is not None
    hidden = read_hocon(text)["agent.sanitize_config_printout.hide_secrets"]
    for key in ("access_key", "secret_key", "git_pass", "key"):
        assert any(re.search(pattern, key) for pattern in hidden)
    assert not any(re.search(pattern, "key_name") for pattern in hidden)


def test_without_any_setting_there_is_no_file_to_write() -> None:
    made = config()
    assert clearml_conf(made, made.pools[0], "api {}") is None


def test_a_missing_secret_is_named_by_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    made = config(clearml="clearml: {access_key: 'env:NOT_THERE', secret_key: 'env:NOT_THERE'}")
    with pytest.raises(ConfigError, match="env:NOT_THERE"):
        clearml_conf(made, made.pools[0], "")


def test_the_file_is_for_its_owner_only_from_its_first_moment_and_replaces_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "clearml.conf").write_text("old")
    (tmp_path / "clearml.tmp").write_text("left by a boot that was killed")
    path = write_clearml_conf(tmp_path, "secret")
    assert path.read_text() == "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["clearml.conf"]
    with pytest.raises(HostError, match="could not be written"):
        write_clearml_conf(tmp_path / "nowhere", "secret")


def test_the_machines_own_file_is_found_where_the_agent_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.conf").write_text("agent {}")
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "own.conf"))
    assert machine_conf() == "agent {}"
    monkeypatch.delenv("CLEARML_CONFIG_FILE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine_conf() == ""


def test_the_hosts_load_is_in_percent() -> None:
    load = LocalHost().load()
    assert 0 <= load.cpu <= 100
    assert 0 < load.memory <= 100
    assert load.gpu is None or 0 <= load.gpu <= 100


def test_a_shutdown_runs_the_machines_command_and_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    monkeypatch.setenv(
        "SCALER_SHUTDOWN_COMMAND", f"/bin/sh -c 'mkfifo {pipe}.new; mv {pipe}.new {pipe}; echo off > {pipe}'"
    )
    LocalHost().shut_down("idle")
    for _ in range(2000):
        if pipe.exists():
            break
        time.sleep(0.01)
    assert pipe.read_text() == "off\n", "the command is still there to be heard"


def test_a_shutdown_command_that_does_not_exist_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALER_SHUTDOWN_COMMAND", "/nowhere/poweroff")
    with pytest.raises(HostError, match=r"/nowhere/poweroff could not be started"):
        LocalHost().shut_down("idle")
