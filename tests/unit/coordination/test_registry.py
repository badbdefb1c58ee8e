"""A node's record: written on change, and back by itself whatever became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import Cut, MemoryStore
from scaler_plugin.coordination.registry import Condemned, Registry, read_nodes
from scaler_plugin.coordination.store import Delete, Entry, Put
from scaler_plugin.core.model import InstanceId, Node, NodeIdentity, NodeRole, NodeState, PoolName
from scaler_plugin.errors import StoreError, StoreUnavailable
from scaler_plugin.simulation.clock import VirtualClock

KEYS = Keys("/scaler", "c")
TTL_S = 30


def a_node(name: str = "i-1", pool: str = "cpu") -> Node:
    identity = NodeIdentity("c", InstanceId(name), NodeRole.WORKER, PoolName(pool))
    return Node(identity, NodeState.UP, registered_at=1.0)


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.etcd = MemoryStore(self.clock)
        self.store = self.etcd.client("i-1")
        self.registry = Registry(self.store, KEYS, self.clock, TTL_S)

    def nodes(self) -> tuple[Node, ...]:
        return read_nodes(self.etcd.client("observer"), KEYS)

    def revision(self) -> int:
        return self.etcd.client("observer").transact([], []).revision


@pytest.fixture
def world() -> World:
    return World()


def test_a_published_node_is_read_by_everybody(world: World) -> None:
    world.registry.publish(a_node())
    assert world.nodes() == (a_node(),)


def test_a_record_that_does_not_change_is_not_written_again(world: World) -> None:
    world.registry.publish(a_node())
    before = world.revision()
    for _ in range(100):
        world.registry.publish(a_node())
        world.clock.advance(5)
        world.registry.renew()
    assert world.revision() == before
    assert world.nodes() == (a_node(),)


def test_a_change_is_written(world: World) -> None:
    world.registry.publish(a_node())
    changed = replace(a_node(), state=NodeState.DRAINING)
    world.registry.publish(changed)
    assert world.nodes() == (changed,)


def test_a_node_that_falls_silent_disappears_after_its_ttl(world: World) -> None:
    world.registry.publish(a_node())
    world.clock.advance(TTL_S - 0.1)
    assert world.nodes()
    world.clock.advance(0.1)
    assert world.nodes() == ()


@pytest.mark.parametrize("act", ["publish", "renew"])
def test_a_node_whose_lease_ran_out_is_back_with_the_next_sign_of_life(world: World, act: str) -> None:
    world.registry.publish(a_node())
    world.clock.advance(TTL_S + 1)
    assert world.nodes() == ()
    world.registry.publish(a_node()) if act == "publish" else world.registry.renew()
    assert world.nodes() == (a_node(),)


def delete_record(etcd: MemoryStore) -> None:
    etcd.client("operator").transact([], [Delete(KEYS.node(InstanceId("i-1")))])


@pytest.mark.parametrize("accident", [MemoryStore.wipe, delete_record], ids=["wiped", "deleted"])
def test_a_record_that_was_lost_is_back_with_the_next_renewal_though_it_did_not_change(
    world: World, accident: Callable[[MemoryStore], None]
) -> None:
    world.registry.publish(a_node())
    accident(world.etcd)
    assert world.nodes() == ()
    world.registry.renew()
    assert world.nodes() == (a_node(),)
    assert len(world.etcd.leases) == 1


def test_a_change_after_the_lease_ran_out_is_written_under_a_new_one(world: World) -> None:
    world.registry.publish(a_node())
    world.clock.advance(TTL_S + 1)
    changed = replace(a_node(), state=NodeState.DRAINING)
    world.registry.publish(changed)
    assert world.nodes() == (changed,)
    world.clock.advance(TTL_S / 2)
    world.registry.renew()
    world.clock.advance(TTL_S / 2 + 1)
    assert world.nodes() == (changed,)


@pytest.mark.parametrize("cut", list(Cut))
def test_a_write_whose_answer_was_lost_is_made_again(world: World, cut: Cut) -> None:
    world.registry.publish(a_node())
    changed = replace(a_node(), state=NodeState.DRAINING)
    world.store.fail_next(cut)
    with pytest.raises(StoreUnavailable):
        world.registry.publish(changed)
    world.registry.publish(changed)
    assert world.nodes() == (changed,)


def test_leaving_takes_the_record_away_at_once_and_a_renewal_does_not_bring_it_back(world: World) -> None:
    world.registry.publish(a_node())
    world.registry.leave()
    world.registry.renew()
    assert world.nodes() == ()
    assert world.etcd.leases == ()
    assert world.registry.lease is None


def test_leaving_without_etcd_raises_nothing_and_the_record_goes_by_itself(world: World) -> None:
    world.registry.publish(a_node())
    world.store.partition()
    world.registry.leave()
    world.store.heal()
    world.clock.advance(TTL_S)
    assert world.nodes() == ()


def test_an_instance_that_was_condemned_does_not_register(world: World) -> None:
    world.etcd.client("leader").transact([], [Put(KEYS.condemned(InstanceId("i-1")), "{}")])
    with pytest.raises(Condemned):
        world.registry.publish(a_node())
    assert world.nodes() == ()


def test_a_malformed_record_is_reported_and_does_not_hide_the_others(world: World) -> None:
    world.registry.publish(a_node())
    world.store.transact([], [Put(f"{KEYS.nodes}i-0", "{}"), Put(f"{KEYS.nodes}i-2", encode(a_node("i-2")))])
    reported: list[tuple[Entry, StoreError]] = []
    nodes = read_nodes(world.store, KEYS, lambda entry, error: reported.append((entry, error)))
    assert [node.instance_id for node in nodes] == ["i-1", "i-2"]
    ((entry, error),) = reported
    assert entry.key == f"{KEYS.nodes}i-0"
    assert entry.key in str(error)


@pytest.mark.parametrize("text", ["{}", encode(a_node())])
def test_a_record_that_other_hands_have_put_without_its_lease_is_back_under_it_with_the_next_renewal(
    world: World, text: str
) -> None:
    world.registry.publish(a_node())
    world.store.transact([], [Put(KEYS.node(InstanceId("i-1")), text)])
    world.registry.renew()
    assert world.nodes() == (a_node(),)
    world.clock.advance(TTL_S + 1)
    world.etcd.tick()
    assert world.nodes() == (), "it would have outlived the node"


def test_a_record_of_our_own_that_says_retiring_is_left_alone_by_renewals(world: World) -> None:
    world.registry.publish(a_node())
    retiring = replace(a_node(), state=NodeState.RETIRING)
    world.store.transact([], [Put(KEYS.node(InstanceId("i-1")), encode(retiring), world.registry.lease)])
    world.registry.renew()
    assert world.nodes() == (retiring,)
