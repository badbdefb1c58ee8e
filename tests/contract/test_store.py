"""The store's contract: one suite, both adapters, etcd's against a real etcd."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.memory_store import MemoryStore
from scaler_plugin.coordination.store import CreatedAt, Delete, LeaseId, ModifiedAt, Put, Store, ValueIs
from scaler_plugin.errors import LeaseLost, StoreRefused
from scaler_plugin.localcloud.etcd import EtcdProcess, etcd_binary
from scaler_plugin.simulation.clock import VirtualClock

from ..waiting import PATIENCE_S, until

#: The life of leases that are to end: an etcd under load must not lose one before the test has used it.
SHORT_S = 4


class Bench(Protocol):
    """A store, a way to open a second connection to it, and a way to let time pass until something holds."""

    store: Store

    def connect(self) -> Store: ...
    def wait(self, holds: Callable[[], bool]) -> None: ...


class EtcdBench:
    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._opened: list[Store] = []
        self.store = self.connect()

    def connect(self) -> Store:
        self._opened.append(open_store([self._endpoint]))
        return self._opened[-1]

    def wait(self, holds: Callable[[], bool]) -> None:
        until(holds)

    def close(self) -> None:
        for store in self._opened:
            store.close()


class MemoryBench:
    def __init__(self) -> None:
        self._clock = VirtualClock()
        self._memory = MemoryStore(self._clock)
        self._count = 0
        self.store = self.connect()

    def connect(self) -> Store:
        self._count += 1
        return self._memory.client(f"client-{self._count}")

    def wait(self, holds: Callable[[], bool]) -> None:
        deadline = self._clock.monotonic() + PATIENCE_S
        while not holds():
            assert self._clock.monotonic() < deadline, "it did not happen"
            self._clock.advance(0.1)
            self._memory.tick()


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdProcess]:
    with EtcdProcess() as process:
        yield process


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.real)])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        yield MemoryBench()
        return
    bench = EtcdBench(request.getfixturevalue("etcd").endpoint)
    for entry in bench.store.get_prefix(""):
        bench.store.transact([], [Delete(entry.key)])
    yield bench
    bench.close()


@pytest.fixture
def store(bench: Bench) -> Store:
    return bench.store


def put(store: Store, key: str, value: str = "v", lease: LeaseId | None = None) -> int:
    """Write, and return the revision."""
    answer = store.transact([], [Put(key, value, lease)])
    assert answer.succeeded
    return answer.revision


def test_a_key_that_was_never_written_reads_as_none(store: Store) -> None:
    assert store.get("/a") is None


def test_a_key_reads_as_it_was_written_with_its_revisions(store: Store) -> None:
    created = put(store, "/a", "grün ✓")
    entry = store.get("/a")
    assert entry is not None
    assert (entry.key, entry.value, entry.lease) == ("/a", "grün ✓", None)
    assert entry.create_revision == entry.mod_revision == created


def test_an_overwrite_keeps_the_create_revision_and_moves_the_mod_revision(store: Store) -> None:
    created = put(store, "/a", "1")
    changed = put(store, "/a", "2")
    entry = store.get("/a")
    assert entry is not None
    assert (entry.value, entry.create_revision, entry.mod_revision) == ("2", created, changed)
    assert changed > created


def test_a_key_that_was_deleted_and_written_again_has_a_new_create_revision(store: Store) -> None:
    first = put(store, "/a")
    store.transact([], [Delete("/a")])
    assert store.get("/a") is None
    assert put(store, "/a") > first
    entry = store.get("/a")
    assert entry is not None
    assert entry.create_revision > first


def test_an_empty_value_is_a_value(store: Store) -> None:
    put(store, "/a", "")
    entry = store.get("/a")
    assert entry is not None
    assert entry.value == ""


def test_a_prefix_reads_in_order_of_key_and_nothing_beside_it(store: Store) -> None:
    for key in ("/n/b", "/n/a", "/n/c", "/m/z", "/n", "/o"):
        put(store, key)
    assert [entry.key for entry in store.get_prefix("/n/")] == ["/n/a", "/n/b", "/n/c"]


def test_a_prefix_with_nothing_under_it_reads_as_empty(store: Store) -> None:
    assert store.get_prefix("/nothing/") == ()


def test_a_prefix_of_several_pages_reads_whole(store: Store) -> None:
    keys = [f"/n/{number:05d}" for number in range(2_500)]
    for start in range(0, len(keys), 100):
        store.transact([], [Put(key, "x" * 300) for key in keys[start : start + 100]])
    assert [entry.key for entry in store.get_prefix("/n/")] == keys


def test_all_writes_of_a_transaction_share_one_revision(store: Store) -> None:
    answer = store.transact([], [Put("/a", "1"), Put("/b", "2")])
    first, second = store.get("/a"), store.get("/b")
    assert first is not None
    assert second is not None
    assert first.mod_revision == second.mod_revision == answer.revision


def test_deleting_a_key_that_does_not_exist_is_no_error_and_no_change(store: Store) -> None:
    before = put(store, "/a")
    answer = store.transact([], [Delete("/b")])
    assert answer.succeeded
    assert answer.revision == before


def test_create_if_absent_succeeds_once(store: Store) -> None:
    assert store.transact([CreatedAt("/a", 0)], [Put("/a", "1")]).succeeded
    assert not store.transact([CreatedAt("/a", 0)], [Put("/a", "2")]).succeeded
    entry = store.get("/a")
    assert entry is not None
    assert entry.value == "1"


def test_a_transaction_with_one_comparison_that_fails_writes_nothing(store: Store) -> None:
    put(store, "/a", "1")
    answer = store.transact([ModifiedAt("/b", 0), CreatedAt("/a", 0)], [Put("/b", "2"), Delete("/a")])
    assert not answer.succeeded
    assert store.get("/a") is not None
    assert store.get("/b") is None


def test_created_at_holds_for_the_same_incarnation_only(store: Store) -> None:
    created = put(store, "/a", "1")
    put(store, "/a", "2")
    assert store.transact([CreatedAt("/a", created)], [Put("/b", "yes")]).succeeded
    store.transact([], [Delete("/a")])
    put(store, "/a", "3")
    assert not store.transact([CreatedAt("/a", created)], [Put("/b", "no")]).succeeded


def test_modified_at_holds_until_the_next_write(store: Store) -> None:
    revision = put(store, "/a", "1")
    assert store.transact([ModifiedAt("/a", revision)], [Put("/a", "2")]).succeeded
    assert not store.transact([ModifiedAt("/a", revision)], [Put("/a", "3")]).succeeded


def test_comparing_with_zero_means_that_the_key_does_not_exist(store: Store) -> None:
    assert store.transact([CreatedAt("/a", 0), ModifiedAt("/a", 0)], []).succeeded
    put(store, "/a")
    assert not store.transact([ModifiedAt("/a", 0)], []).succeeded


def test_value_is_holds_for_exactly_this_value_of_a_key_that_exists(store: Store) -> None:
    store.transact([], [Put("/v", "one")])
    assert store.transact([ValueIs("/v", "one")], [Put("/v", "two")]).succeeded
    assert not store.transact([ValueIs("/v", "one")], [Put("/v", "three")]).succeeded
    assert not store.transact([ValueIs("/absent", "")], [Put("/v", "three")]).succeeded


def test_a_transaction_without_writes_only_compares(store: Store) -> None:
    revision = put(store, "/a")
    answer = store.transact([CreatedAt("/a", revision)], [])
    assert answer.succeeded
    assert answer.revision == revision


def test_a_transaction_that_names_a_key_twice_is_refused(store: Store) -> None:
    with pytest.raises(StoreRefused):
        store.transact([], [Put("/a", "1"), Delete("/a")])
    assert store.get("/a") is None


def test_a_transaction_of_too_many_writes_is_refused(store: Store) -> None:
    with pytest.raises(StoreRefused):
        store.transact([], [Put(f"/{number}", "") for number in range(129)])
    assert store.get_prefix("/") == ()


def test_of_many_concurrent_writers_exactly_one_wins(bench: Bench) -> None:
    won: list[int] = []
    stores = [bench.connect() for _ in range(8)]

    def race(number: int) -> None:
        if stores[number].transact([CreatedAt("/a", 0)], [Put("/a", str(number))]).succeeded:
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entry = bench.store.get("/a")
    assert entry is not None
    assert [entry.value] == [str(number) for number in won]


def test_a_key_under_a_lease_names_it(store: Store) -> None:
    lease = store.grant_lease(10)
    put(store, "/a", lease=lease)
    entry = store.get("/a")
    assert entry is not None
    assert entry.lease == lease


def test_every_lease_is_a_new_one(store: Store) -> None:
    assert len({store.grant_lease(5) for _ in range(20)}) == 20


def test_revoking_a_lease_deletes_its_keys_and_no_others(store: Store) -> None:
    lease = store.grant_lease(10)
    put(store, "/a", lease=lease)
    put(store, "/b", lease=lease)
    put(store, "/c")
    store.revoke_lease(lease)
    assert [entry.key for entry in store.get_prefix("/")] == ["/c"]


def test_revoking_a_lease_that_is_gone_is_no_error(store: Store) -> None:
    lease = store.grant_lease(10)
    store.revoke_lease(lease)
    store.revoke_lease(lease)


def test_keeping_a_lease_alive_that_is_gone_raises_lease_lost(store: Store) -> None:
    lease = store.grant_lease(10)
    store.revoke_lease(lease)
    with pytest.raises(LeaseLost):
        store.keep_alive(lease)


def test_a_put_under_a_lease_that_is_gone_raises_lease_lost_and_writes_nothing(store: Store) -> None:
    lease = store.grant_lease(10)
    store.revoke_lease(lease)
    with pytest.raises(LeaseLost):
        store.transact([], [Put("/b", "1"), Put("/a", "1", lease)])
    assert store.get_prefix("/") == ()


def test_a_comparison_that_fails_counts_before_a_lease_that_is_gone(store: Store) -> None:
    lease = store.grant_lease(10)
    store.revoke_lease(lease)
    put(store, "/a")
    assert not store.transact([CreatedAt("/a", 0)], [Put("/b", "1", lease)]).succeeded


def test_a_put_without_the_lease_detaches_the_key_from_it(store: Store) -> None:
    lease = store.grant_lease(10)
    put(store, "/a", lease=lease)
    put(store, "/a")
    store.revoke_lease(lease)
    assert store.get("/a") is not None


def test_a_lease_nobody_renews_expires_with_its_keys(bench: Bench) -> None:
    lease = bench.store.grant_lease(SHORT_S)
    put(bench.store, "/a", lease=lease)
    bench.wait(lambda: bench.store.get("/a") is None)
    with pytest.raises(LeaseLost):
        bench.store.keep_alive(lease)


def test_a_lease_that_is_renewed_outlives_one_that_is_not(bench: Bench) -> None:
    kept, left = bench.store.grant_lease(SHORT_S), bench.store.grant_lease(SHORT_S)
    put(bench.store, "/kept", lease=kept)
    put(bench.store, "/left", lease=left)

    def left_is_gone() -> bool:
        bench.store.keep_alive(kept)
        return bench.store.get("/left") is None

    bench.wait(left_is_gone)
    assert bench.store.get("/kept") is not None


def test_a_lease_belongs_to_no_connection(bench: Bench) -> None:
    other = bench.connect()
    lease = other.grant_lease(10)
    put(other, "/a", lease=lease)
    other.close()
    bench.store.keep_alive(lease)
    assert bench.store.get("/a") is not None


def test_a_watch_is_called_for_a_put_a_delete_and_the_end_of_a_lease(bench: Bench) -> None:
    woken = threading.Event()
    bench.store.watch("/a/", woken.set)
    other = bench.connect()
    lease = other.grant_lease(30)

    def must_wake(act: Callable[[], object]) -> None:
        woken.clear()
        act()
        bench.wait(woken.is_set)

    must_wake(lambda: put(other, "/a/1"))
    must_wake(lambda: other.transact([], [Delete("/a/1")]))
    must_wake(lambda: put(other, "/a/2", lease=lease))
    must_wake(lambda: other.revoke_lease(lease))


def test_a_watch_is_called_when_a_lease_expires(bench: Bench) -> None:
    woken = threading.Event()
    put(bench.store, "/a", lease=bench.store.grant_lease(SHORT_S))
    bench.store.watch("/a", woken.set)
    bench.wait(woken.is_set)
    assert bench.store.get("/a") is None


def test_a_watch_is_not_called_for_other_keys(bench: Bench) -> None:
    calls: list[str] = []
    bench.store.watch("/a/", lambda: calls.append("a"))
    bench.store.watch("/b/", lambda: calls.append("b"))
    put(bench.store, "/b/1")
    bench.wait(lambda: "b" in calls)
    assert "a" not in calls


def test_a_cancelled_watch_is_not_called_and_the_others_go_on(bench: Bench) -> None:
    calls: list[str] = []
    watch = bench.store.watch("/a/", lambda: calls.append("cancelled"))
    bench.store.watch("/a/", lambda: calls.append("kept"))
    watch.cancel()
    watch.cancel()
    put(bench.store, "/a/1")
    bench.wait(lambda: "kept" in calls)
    assert "cancelled" not in calls


def test_what_a_watch_wakes_up_may_itself_use_the_store(bench: Bench) -> None:
    read: list[str] = []

    def on_change() -> None:
        entry = bench.store.get("/a")
        read.append(entry.value if entry else "")

    bench.store.watch("/a", on_change)
    put(bench.store, "/a", "1")
    bench.wait(lambda: "1" in read)


@pytest.mark.real
def test_a_value_that_is_no_text_reads_as_one_that_nobody_understands_and_hides_no_other(etcd: EtcdProcess) -> None:
    command = [etcd_binary("etcdctl"), f"--endpoints={etcd.endpoint}", "put", "/t/binary/a"]
    subprocess.run(command, input=b"\xff\x00\xfe", env={**os.environ, "ETCDCTL_API": "3"}, check=True)
    store = open_store([etcd.endpoint])
    try:
        put(store, "/t/binary/b", "text")
        spoilt, sound = store.get_prefix("/t/binary/")
    finally:
        store.close()
    assert "\ufffd" in spoilt.value
    assert sound.value == "text"
