"""What a node takes from the configuration, read by a child process."""

from __future__ import annotations

import json

import pytest

from scaler_plugin.coordination import config_digest
from scaler_plugin.coordination.config_digest import digest, digest_in_child
from scaler_plugin.errors import ConfigError

GOOD = json.dumps(
    {
        "cluster": "c",
        "leader_ttl": "7s",
        "pools": [
            {
                "name": "cpu",
                "queues": ["q-1"],
                "instance_types": ["c5.large"],
                "ami": "ami-12345678",
                "max_instances": 3,
            }
        ],
    }
)


def test_the_child_reads_what_this_process_would_read() -> None:
    read = digest_in_child(GOOD, "It", "c")
    assert read == digest(GOOD, "It", "c")
    assert read.leader_ttl_s == 7
    assert read.policy.pools[0].max_instances == 3


def test_a_mistake_comes_back_from_the_child_as_the_same_sentence() -> None:
    bad = GOOD.replace('"max_instances": 3', '"max_instances": 0')
    with pytest.raises(ConfigError) as here:
        digest(bad, "The configuration in etcd", "c")
    with pytest.raises(ConfigError) as there:
        digest_in_child(bad, "The configuration in etcd", "c")
    assert str(there.value) == str(here.value)
    assert str(there.value).startswith("The configuration in etcd")


def test_another_clusters_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="is for cluster c; push the one for d"):
        digest_in_child(GOOD, "It", "d")


def test_where_no_child_can_be_started_the_text_is_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_digest.sys, "executable", "/nowhere/python")
    assert digest_in_child(GOOD, "It", "c") == digest(GOOD, "It", "c")
