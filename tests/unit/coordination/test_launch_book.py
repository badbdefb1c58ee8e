"""Launch records: created once, fenced, changed only by those who know them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_book import LaunchBook
from scaler_plugin.coordination.memory_store import Cut, MemoryStore
from scaler_plugin.coordination.store import Delete, Put
from scaler_plugin.core.model import Attempt, InstanceId, Launch, LaunchId, LaunchRequest, PoolName
from scaler_plugin.errors import NotLeader, StoreRefused, StoreUnavailable
from scaler_plugin.simulation.clock import VirtualClock

KEYS = Keys("/scaler", "c")
REQUEST = LaunchRequest("c", PoolName("cpu"), LaunchId("l-1"), 2, "m5.large", "ami-1", tags=(("a", "b"),))
ATTEMPT = Attempt(0, "token-0", REQUEST, 1.0)
LAUNCH = Launch(LaunchId("l-1"), PoolName("cpu"), 2, 1, 7, 1.0, "2 tasks wait", (REQUEST,), (ATTEMPT,))


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.etcd = MemoryStore(self.clock)

    def leader(self, name: str) -> tuple[Election, LaunchBook]:
        election = Election(self.etcd.client(name), KEYS, name, self.clock)
        assert election.step() is not None
        return election, LaunchBook(self.etcd.client(name), KEYS)

    def records(self) -> tuple[Launch, ...]:
        return LaunchBook(self.etcd.client("observer"), KEYS).read()


@pytest.fixture
def world() -> World:
    return World()


def test_a_record_reads_as_it_was_written(world: World) -> None:
    election, book = world.leader("a")
    book.put(election, LAUNCH)
    assert world.records() == (LAUNCH,)


def test_a_record_changes_step_by_step_and_goes(world: World) -> None:
    election, book = world.leader("a")
    book.put(election, LAUNCH)
    attempt = Attempt(1, "token", REQUEST, 2.0)
    book.put(election, replace(LAUNCH, attempts=(attempt,)))
    done = replace(LAUNCH, attempts=(replace(attempt, instance_ids=(InstanceId("i-1"),)),))
    book.put(election, done)
    assert world.records() == (done,)
    book.delete(election, LAUNCH.launch_id)
    book.delete(election, LAUNCH.launch_id)
    assert world.records() == ()


def test_creating_a_launch_whose_id_exists_fails(world: World) -> None:
    election, book = world.leader("a")
    book.put(election, LAUNCH)
    with pytest.raises(StoreRefused):
        LaunchBook(world.etcd.client("a"), KEYS).put(election, replace(LAUNCH, count=9))
    assert world.records() == (LAUNCH,)


def test_a_successor_goes_on_with_the_record_it_has_read(world: World) -> None:
    first, book = world.leader("a")
    book.put(first, LAUNCH)
    first.resign()
    second, its_book = world.leader("b")
    (read,) = its_book.read()
    its_book.put(second, replace(read, count=1))
    assert world.records() == (replace(LAUNCH, count=1),)


def test_one_whose_term_is_over_writes_and_deletes_nothing(world: World) -> None:
    old, book = world.leader("old")
    book.put(old, LAUNCH)
    world.clock.advance(10)
    world.leader("new")
    with pytest.raises(NotLeader):
        book.put(old, replace(LAUNCH, count=9))
    with pytest.raises(NotLeader):
        book.delete(old, LAUNCH.launch_id)
    assert world.records() == (LAUNCH,)


@pytest.mark.parametrize("cut", list(Cut))
def test_after_a_lost_answer_reading_tells_and_the_record_can_be_written(world: World, cut: Cut) -> None:
    election, book = world.leader("a")
    world.etcd.client("a").fail_next(cut)
    with pytest.raises(StoreUnavailable):
        book.put(election, LAUNCH)
    assert bool(book.read()) is (cut is Cut.AFTER_EFFECT)
    changed = replace(LAUNCH, count=1)
    book.put(election, changed)
    assert world.records() == (changed,)


def test_a_record_that_somebody_else_changed_is_not_overwritten(world: World) -> None:
    election, book = world.leader("a")
    book.put(election, LAUNCH)
    theirs = replace(LAUNCH, reason="edited")
    world.etcd.client("operator").transact([], [Put(KEYS.launch(LAUNCH.launch_id), encode(theirs))])
    with pytest.raises(StoreRefused):
        book.put(election, replace(LAUNCH, count=1))
    assert world.records() == (theirs,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"launch_id": 1}',
        encode(replace(LAUNCH, count="two")),  # type: ignore[arg-type]
        encode(LAUNCH),  # a copy of a record under another key
        encode(replace(LAUNCH, launch_id=LaunchId("l-0"), attempts=())),
        encode(replace(LAUNCH, launch_id=LaunchId("l-0"), attempts=(replace(ATTEMPT, error="no capacity"),))),
    ],
)
def test_a_record_that_cannot_be_gone_on_from_is_named_and_hides_no_other(world: World, text: str) -> None:
    election, book = world.leader("a")
    book.put(election, LAUNCH)
    world.etcd.client("operator").transact([], [Put(KEYS.launch(LaunchId("l-0")), text)])
    assert book.read() == (LAUNCH,)
    assert book.unread == ("l-0",)
    world.etcd.client("operator").transact([], [Delete(KEYS.launch(LaunchId("l-0")))])
    assert book.read() == (LAUNCH,)
    assert book.unread == ()
