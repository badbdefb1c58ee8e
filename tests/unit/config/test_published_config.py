"""The configuration in etcd, on the in-memory store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scaler_plugin.config.load import parse_json
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.config_follower import ConfigFollower
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import MemoryClient, MemoryStore
from scaler_plugin.coordination.published_config import parse_published, push_config, read_config
from scaler_plugin.coordination.store import Put
from scaler_plugin.errors import ConfigError, ScalerError, StoreUnavailable
from scaler_plugin.simulation.clock import VirtualClock

KEYS = Keys("scaler-sidecar", "demo")


@pytest.fixture
def etcd() -> MemoryStore:
    return MemoryStore(VirtualClock())


@pytest.fixture
def store(etcd: MemoryStore) -> MemoryClient:
    return etcd.client("test")


@pytest.fixture
def config(minimal: dict[str, Any]) -> ScalerConfig:
    return parse_json(json.dumps(minimal))


@pytest.fixture
def other(minimal: dict[str, Any]) -> ScalerConfig:
    return parse_json(json.dumps(minimal | {"poll_interval": "5s"}))


def write(store: MemoryClient, text: str) -> int:
    return store.transact([], [Put(KEYS.config, text)]).revision


def test_what_was_pushed_is_read_with_its_revision(store: MemoryClient, config: ScalerConfig) -> None:
    assert read_config(store, KEYS) is None
    revision = push_config(store, KEYS, config)
    assert read_config(store, KEYS) == (config, revision)


def test_an_image_by_name_is_never_published(store: MemoryClient, config: ScalerConfig) -> None:
    pool = config.pools[0].model_copy(update={"ami": "name:scaler-sidecar-*"})
    with pytest.raises(ConfigError, match=r"name:scaler-sidecar-\*, must be looked up first"):
        push_config(store, KEYS, config.model_copy(update={"pools": (pool,)}))
    assert read_config(store, KEYS) is None


def test_the_same_configuration_is_not_written_again(
    store: MemoryClient, config: ScalerConfig, other: ScalerConfig
) -> None:
    first = push_config(store, KEYS, config)
    assert push_config(store, KEYS, config) == first
    assert push_config(store, KEYS, other) > first


def test_of_two_pushers_at_the_same_moment_one_is_refused(
    store: MemoryClient, config: ScalerConfig, other: ScalerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = store.get

    def get_and_lose_the_race(key: str) -> Any:
        entry = get(key)
        monkeypatch.undo()
        push_config(store, KEYS, other)
        return entry

    monkeypatch.setattr(store, "get", get_and_lose_the_race)
    with pytest.raises(
        ScalerError, match="Somebody else pushed a configuration for cluster demo at the same moment; nothing"
    ):
        push_config(store, KEYS, config)
    published = read_config(store, KEYS)
    assert published is not None
    assert published.config == other


def test_a_configuration_never_lands_in_another_cluster(store: MemoryClient, config: ScalerConfig) -> None:
    with pytest.raises(ConfigError, match="is for cluster demo, not for prod; nothing was written"):
        push_config(store, Keys("scaler-sidecar", "prod"), config)


def test_a_malformed_configuration_in_etcd_can_be_replaced(store: MemoryClient, config: ScalerConfig) -> None:
    write(store, "{")
    with pytest.raises(
        ConfigError, match=r"The configuration in etcd \(/scaler-sidecar/demo/config, revision 2\) is not valid JSON"
    ):
        read_config(store, KEYS)
    push_config(store, KEYS, config)
    assert read_config(store, KEYS) is not None


def follow(store: MemoryClient) -> ConfigFollower[ScalerConfig]:
    return ConfigFollower(store, KEYS, lambda text, where: parse_published(text, where, KEYS.cluster))


def test_a_follower_sees_each_push_at_its_next_look(
    store: MemoryClient, config: ScalerConfig, other: ScalerConfig
) -> None:
    follower = follow(store)
    push_config(store, KEYS, config)
    assert follower.current() == config
    push_config(store, KEYS, other)
    assert follower.current() == other


def test_a_follower_parses_only_what_is_new(store: MemoryClient, config: ScalerConfig) -> None:
    follower = follow(store)
    push_config(store, KEYS, config)
    assert follower.current() is follower.current()


def test_a_follower_keeps_the_last_good_one_and_says_why(
    store: MemoryClient, config: ScalerConfig, other: ScalerConfig
) -> None:
    follower = follow(store)
    revision = push_config(store, KEYS, config)
    follower.current()
    bad = write(store, '{"cluster": "demo"}')
    assert follower.current() == config
    assert follower.problem is not None
    assert f"revision {bad}) has 1 mistake" in follower.problem
    assert follower.last_good is not None
    assert (follower.last_good.config, follower.last_good.revision) == (config, revision)
    push_config(store, KEYS, other)
    assert follower.current() == other
    assert follower.problem is None


def test_a_follower_ignores_another_clusters_configuration(
    store: MemoryClient, minimal: dict[str, Any], config: ScalerConfig
) -> None:
    follower = follow(store)
    push_config(store, KEYS, config)
    follower.current()
    write(store, json.dumps(minimal | {"cluster": "prod"}))
    assert follower.current() == config
    assert "is for cluster prod; push the one for demo" in (follower.problem or "")


def test_a_follower_without_any_configuration_says_what_to_do(store: MemoryClient, config: ScalerConfig) -> None:
    follower = follow(store)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"No configuration is published for cluster demo .*; push one with"):
            follower.current()
    assert follower.last_good is None
    push_config(store, KEYS, config)
    assert follower.current() == config


def test_a_follower_survives_an_emptied_etcd(
    etcd: MemoryStore, store: MemoryClient, config: ScalerConfig, other: ScalerConfig
) -> None:
    follower = follow(store)
    first = push_config(store, KEYS, config)
    follower.current()
    etcd.wipe()
    assert push_config(store, KEYS, other) == first  # revisions begin again
    assert follower.current() == other
    etcd.wipe()
    assert follower.current() == other
    assert "No configuration is published" in (follower.problem or "")


def test_a_follower_without_etcd_has_the_last_good_one_at_hand(
    etcd: MemoryStore, store: MemoryClient, config: ScalerConfig
) -> None:
    follower = follow(store)
    push_config(store, KEYS, config)
    follower.current()
    etcd.stop()
    with pytest.raises(StoreUnavailable):
        follower.current()
    assert follower.last_good is not None
    assert follower.last_good.config == config
