"""How values lie in etcd, under which keys, and the bounded log of events."""

from __future__ import annotations

import dataclasses
import json

import pytest

from scaler_plugin.coordination import events
from scaler_plugin.coordination.codec import decode, encode
from scaler_plugin.coordination.events import Event
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import MemoryStore
from scaler_plugin.core.model import (
    InstanceId,
    Launch,
    LaunchId,
    LaunchRequest,
    Load,
    Market,
    Node,
    NodeIdentity,
    NodeRole,
    NodeState,
    PoolName,
    Slot,
    SlotState,
    TaskId,
    Volume,
)
from scaler_plugin.errors import ConfigError, StoreError
from scaler_plugin.simulation.clock import VirtualClock

KEYS = Keys("/scaler", "c")
NODE = Node(
    NodeIdentity("c", InstanceId("i-1"), NodeRole.WORKER, PoolName("gpu"), "g5.xlarge", Market.SPOT, "eu-1a"),
    NodeState.DRAINING,
    registered_at=1_700_000_000.25,
    slots=(Slot(0, SlotState.BUSY, 2.5, TaskId("t")), Slot(1, SlotState.IDLE, 3.0)),
    load=Load(1.5, 99.0, gpu=3.0),
    reason="grün",
)
LAUNCH = Launch(
    LaunchId("l"),
    PoolName("gpu"),
    1,
    2,
    7,
    1.0,
    "why",
    (
        LaunchRequest(
            "c", PoolName("gpu"), LaunchId("l"), 1, "g5", "ami", volume=Volume("/dev/sda1", 50), tags=(("a", "b"),)
        ),
    ),
    awaited=(InstanceId("i-1"),),
)


@pytest.mark.parametrize("value", [NODE, LAUNCH])
def test_a_value_reads_as_it_was_written(value: Node | Launch) -> None:
    assert decode(type(value), encode(value)) == value


def test_what_is_read_is_as_immutable_as_what_was_written() -> None:
    node = decode(Node, encode(NODE))
    assert isinstance(node.slots, tuple)
    assert node.slots[0].state is SlotState.BUSY
    with pytest.raises(dataclasses.FrozenInstanceError):
        node.reason = ""  # type: ignore[misc]


def test_a_value_is_written_without_blanks() -> None:
    assert encode(NODE) == json.dumps(json.loads(encode(NODE)), separators=(",", ":"), ensure_ascii=False)


def test_fields_of_a_newer_version_are_ignored_at_every_depth() -> None:
    stored = json.loads(encode(NODE))
    stored["new"] = {"a": 1}
    stored["identity"]["new"] = 1
    stored["slots"][0]["new"] = 1
    assert decode(Node, json.dumps(stored)) == NODE


def test_a_field_that_an_older_version_did_not_write_takes_its_default() -> None:
    stored = json.loads(encode(NODE))
    del stored["reason"]
    assert decode(Node, json.dumps(stored)).reason == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"state":"up"}', encode(NODE).replace("draining", "dancing")])
def test_a_malformed_value_is_an_error_that_names_the_key(text: str) -> None:
    with pytest.raises(StoreError, match="/scaler/c/nodes/i-1"):
        decode(Node, text, "/scaler/c/nodes/i-1")


def test_the_keys_are_those_of_the_design() -> None:
    assert KEYS.leader == "/scaler/c/leader"
    assert KEYS.config == "/scaler/c/config"
    assert KEYS.view == "/scaler/c/view"
    assert KEYS.node(InstanceId("i-1")) == "/scaler/c/nodes/i-1"
    assert KEYS.launch(LaunchId("l-1")) == "/scaler/c/launches/l-1"
    assert KEYS.retire(PoolName("gpu")) == "/scaler/c/pools/gpu/retire"


@pytest.mark.parametrize("prefix", ["scaler", "/scaler", "/scaler/", "scaler/"])
def test_a_prefix_means_the_same_however_its_slashes_are_written(prefix: str) -> None:
    assert Keys(prefix, "c").leader == "/scaler/c/leader"


@pytest.mark.parametrize(("prefix", "cluster"), [("", "c"), ("/", "c"), ("/scaler", ""), ("/scaler", "a/b")])
def test_names_that_would_mix_up_clusters_are_refused(prefix: str, cluster: str) -> None:
    with pytest.raises(ConfigError):
        Keys(prefix, cluster)


def test_a_cluster_whose_name_begins_like_another_ones_shares_no_prefix_with_it() -> None:
    assert not Keys("/scaler", "c-2").leader.startswith(Keys("/scaler", "c").root)


def an_event(at: float, what: str = "x") -> Event:
    return Event(at, "kind", "i-1", what, "detail")


def test_events_read_in_the_order_in_which_they_happened() -> None:
    store = MemoryStore(VirtualClock()).client("a")
    for at in (1_700_000_003.5, 1_700_000_001.0, 1_700_000_002.0):
        events.record(store, KEYS, an_event(at))
    assert [event.at for event in events.read(store, KEYS)] == [1_700_000_001.0, 1_700_000_002.0, 1_700_000_003.5]


def test_two_events_of_the_same_moment_are_both_kept_and_one_recorded_twice_is_one() -> None:
    store = MemoryStore(VirtualClock()).client("a")
    for what in ("x", "y", "y"):
        events.record(store, KEYS, an_event(5.0, what))
    assert sorted(event.sentence for event in events.read(store, KEYS)) == ["x", "y"]


def test_only_the_newest_events_are_kept() -> None:
    store = MemoryStore(VirtualClock()).client("a")
    for second in range(30):
        events.record(store, KEYS, an_event(float(second)), keep=10)
    assert [event.at for event in events.read(store, KEYS)] == [float(second) for second in range(20, 30)]


def test_a_log_that_is_much_too_long_shrinks_bit_by_bit() -> None:
    store = MemoryStore(VirtualClock()).client("a")
    for second in range(260):
        events.record(store, KEYS, an_event(float(second)), keep=1000)
    for second in range(260, 263):
        events.record(store, KEYS, an_event(float(second)), keep=10)
    assert len(events.read(store, KEYS)) == 10


def test_no_event_brings_a_secret_that_its_text_quotes_into_etcd() -> None:
    store = MemoryStore(VirtualClock()).client("a")
    event = Event(5.0, "start_failed", "i-1", "i-1 said: curl -u a:hunter2 failed.", "+ export A_TOKEN=hunter2\n")
    events.record(store, KEYS, event)
    assert "hunter2" not in "".join(entry.value for entry in store.get_prefix(KEYS.events))
    (read,) = events.read(store, KEYS)
    assert (read.sentence, read.detail) == ("i-1 said: curl -u *** failed.", "+ export A_TOKEN=***\n")
