"""Election, turns to retire and renewals with real threads and processes; what does not need etcd runs on both adapters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from scaler_plugin.coordination.election import Election, read_leader
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import MemoryStore
from scaler_plugin.coordination.registry import Registry, read_nodes
from scaler_plugin.coordination.renewal import Renewal, RenewalThread
from scaler_plugin.coordination.retire_lock import claim_retirement
from scaler_plugin.coordination.store import Delete, Store
from scaler_plugin.core.model import InstanceId, Node, NodeIdentity, NodeRole, NodeState, PoolName
from scaler_plugin.errors import StoreUnavailable
from scaler_plugin.localcloud.etcd import EtcdProcess
from scaler_plugin.node.clock import SystemClock
from scaler_plugin.simulation.clock import VirtualClock

KEYS = Keys("/scaler", "c")
#: On a loaded machine a candidate may not come to renew it in time: no test counts on a leadership that lasts.
TTL_S = 3


def until(holds: Callable[[], bool], within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdProcess]:
    with EtcdProcess() as process:
        yield process


@dataclass
class Bench:
    open: Callable[[str], Store]


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.real)])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        yield Bench(MemoryStore(VirtualClock()).client)
        return
    endpoint = request.getfixturevalue("etcd").endpoint
    opened: list[Store] = []

    def connect(_: str) -> Store:
        opened.append(open_store([endpoint]))
        return opened[-1]

    store = connect("setup")
    for entry in store.get_prefix(KEYS.root):
        store.transact([], [Delete(entry.key)])
    yield Bench(connect)
    for store in opened:
        store.close()


# --- turns to retire (protocol 4)


def a_node(number: int, pool: str = "cpu") -> Node:
    return Node(NodeIdentity("c", InstanceId(f"i-{number:02d}"), NodeRole.WORKER, PoolName(pool)), NodeState.UP, 1.0)


def up(nodes: tuple[Node, ...]) -> int:
    return sum(1 for node in nodes if node.state is NodeState.UP)


@pytest.mark.parametrize("whole_cluster", [False, True])
def test_nodes_that_retire_at_the_same_moment_never_go_below_the_minimum(bench: Bench, whole_cluster: bool) -> None:
    minimum, count = 3, 12
    # With the whole cluster's minimum, the nodes of different pools compete too.
    nodes = [a_node(number, pool=f"pool-{number % 2}" if whole_cluster else "cpu") for number in range(count)]
    stores = [bench.open(node.instance_id) for node in nodes]
    registries = [Registry(store, KEYS, SystemClock(), 60) for store in stores]
    for registry, node in zip(registries, nodes, strict=True):
        registry.publish(node)
    barrier = threading.Barrier(count)
    fewest: list[int] = []

    def retire(number: int) -> None:
        barrier.wait()
        for _ in range(100):

            def decide(seen: tuple[Node, ...]) -> bool:
                return up(seen) > minimum

            if claim_retirement(
                stores[number],
                KEYS,
                nodes[number],
                decide,
                registries[number].lease,
                whole_cluster=whole_cluster,
            ):
                fewest.append(up(read_nodes(stores[number], KEYS)))
                return
            if up(read_nodes(stores[number], KEYS)) <= minimum:
                return

    threads = [threading.Thread(target=retire, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert up(read_nodes(stores[0], KEYS)) == minimum
    assert min(fewest) >= minimum
    assert len(fewest) == count - minimum


def test_of_nodes_that_decided_on_the_same_picture_exactly_one_gets_its_turn(bench: Bench) -> None:
    count = 8
    nodes = [a_node(number) for number in range(count)]
    stores = [bench.open(node.instance_id) for node in nodes]
    registries = [Registry(store, KEYS, SystemClock(), 60) for store in stores]
    for registry, node in zip(registries, nodes, strict=True):
        registry.publish(node)
    everybody_has_read = threading.Barrier(count)
    won: list[int] = []

    def decide(seen: tuple[Node, ...]) -> bool:
        everybody_has_read.wait()
        return True

    def retire(number: int) -> None:
        if claim_retirement(stores[number], KEYS, nodes[number], decide, registries[number].lease):
            won.append(number)

    threads = [threading.Thread(target=retire, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    retiring = [node.instance_id for node in read_nodes(stores[0], KEYS) if node.state is NodeState.RETIRING]
    assert retiring == [nodes[won[0]].instance_id]


def test_a_node_decides_on_its_own_pool_only_and_keeps_its_lease(bench: Bench) -> None:
    store = bench.open("a")
    mine, other = Registry(store, KEYS, SystemClock(), 60), Registry(store, KEYS, SystemClock(), 60)
    mine.publish(a_node(1))
    other.publish(a_node(2, pool="gpu"))
    seen: list[tuple[Node, ...]] = []
    assert claim_retirement(store, KEYS, a_node(1), lambda nodes: seen.append(nodes) is None, mine.lease)
    assert seen == [(a_node(1),)]
    mine.leave()
    assert read_nodes(store, KEYS) == (a_node(2, pool="gpu"),)


def test_a_node_that_may_not_go_or_is_not_registered_changes_nothing(bench: Bench) -> None:
    store = bench.open("a")
    registry = Registry(store, KEYS, SystemClock(), 60)
    assert not claim_retirement(store, KEYS, a_node(1), lambda nodes: True, registry.lease)
    registry.publish(a_node(1))
    assert not claim_retirement(store, KEYS, a_node(1), lambda nodes: False, registry.lease)
    assert read_nodes(store, KEYS) == (a_node(1),)


def test_a_node_whose_answer_was_lost_asks_again_and_has_its_turn(bench: Bench) -> None:
    store = bench.open("a")
    registry = Registry(store, KEYS, SystemClock(), 60)
    registry.publish(a_node(1))
    assert claim_retirement(store, KEYS, a_node(1), lambda nodes: True, registry.lease)
    assert claim_retirement(store, KEYS, a_node(1), lambda nodes: False, registry.lease)


# --- candidates that race


def test_of_many_candidates_that_campaign_at_once_one_leads(bench: Bench) -> None:
    clock = SystemClock()
    candidates = [Election(bench.open(f"n-{number}"), KEYS, f"n-{number}", clock, 30) for number in range(10)]
    barrier = threading.Barrier(len(candidates))

    def campaign(election: Election) -> None:
        barrier.wait()
        election.step()

    threads = [threading.Thread(target=campaign, args=(election,)) for election in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(1 for election in candidates if election.leadership is not None) == 1


@pytest.mark.real
def test_a_resignation_wakes_the_successor_which_leads_at_once(etcd: EtcdProcess) -> None:
    stores = [open_store([etcd.endpoint]) for _ in range(2)]
    keys = Keys("/scaler", "resign")
    old, new = (Election(store, keys, f"n-{n}", SystemClock(), 30) for n, store in enumerate(stores))
    assert old.step() is not None
    led = threading.Event()
    woken = threading.Event()
    new.watch(woken.set)

    def succeed() -> None:
        woken.wait(20)
        if new.step() is not None:
            led.set()

    thread = threading.Thread(target=succeed)
    thread.start()
    began = time.monotonic()
    old.resign()
    assert led.wait(20)  # far below the TTL
    print(f"successor led {time.monotonic() - began:.3f} s after the resignation")
    thread.join()
    for store in stores:
        store.close()


# --- processes that die or stand still

#: Campaigns at each `campaign`, until it leads; says at each `write` what became of it.
CANDIDATE = """
import os, sys, threading
from contextlib import suppress
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.renewal import Renewal, RenewalThread
from scaler_plugin.coordination.store import Put
from scaler_plugin.errors import NotLeader, StoreError
from scaler_plugin.node.clock import SystemClock

endpoint, cluster, ttl = sys.argv[1], sys.argv[2], int(sys.argv[3])
keys = Keys("/scaler", cluster)
election = Election(open_store([endpoint]), keys, f"pid-{os.getpid()}", SystemClock(), ttl, 0.5)
woken = threading.Event()
election.watch(woken.set)
RenewalThread([Renewal("leader", election.renew, election.renew_every_s)]).start()
for line in sys.stdin:
    if line.strip() == "campaign":
        held = None
        while held is None:
            with suppress(StoreError):
                held = election.step()
            if held is None:
                woken.wait(1)
                woken.clear()
        print("leads", held.term, flush=True)
        continue
    try:
        election.fenced([Put(keys.root + "written-by", str(os.getpid()))])
        print("written", flush=True)
    except NotLeader:
        print("refused", flush=True)
    except StoreError as error:
        print("unknown:", error, flush=True)
"""


class CandidateProcess:
    def __init__(self, endpoint: str, cluster: str, ttl_s: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CANDIDATE, endpoint, cluster, str(ttl_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leads(self) -> int:
        """Its term, once it has been elected."""
        said = self.says()
        assert said.startswith("leads "), said
        return int(said.removeprefix("leads "))

    def write_as_leader(self) -> None:
        """It writes; where it has lost the lead again before it came to that, it is elected anew."""
        for _ in range(20):
            self.tell("write")
            if (said := self.says()) == "written":
                return
            assert said.startswith(("refused", "unknown")), said
            self.tell("campaign")
            self.leads()
        pytest.fail("it never held the lead for long enough to write")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def candidates(etcd: EtcdProcess, request: pytest.FixtureRequest) -> Iterator[Callable[[], CandidateProcess]]:
    started: list[CandidateProcess] = []

    def start() -> CandidateProcess:
        started.append(CandidateProcess(etcd.endpoint, f"c-{request.node.name}", TTL_S))
        started[-1].tell("campaign")
        return started[-1]

    yield start
    for candidate in started:
        candidate.end()


@pytest.mark.real
def test_when_the_leader_is_killed_another_one_leads(candidates: Callable[[], CandidateProcess]) -> None:
    first = candidates()
    before = first.leads()
    second = candidates()
    began = time.monotonic()
    first.end()
    after = second.leads()
    print(f"TTL {TTL_S} s: successor led {time.monotonic() - began:.2f} s after the kill")
    assert after > before
    second.write_as_leader()


@pytest.mark.real
def test_a_leader_that_stood_still_for_three_ttls_writes_nothing_when_it_goes_on(
    candidates: Callable[[], CandidateProcess], etcd: EtcdProcess, request: pytest.FixtureRequest
) -> None:
    first = candidates()
    before = first.leads()
    second = candidates()
    os.kill(first.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert second.leads() > before
    assert until(lambda: time.monotonic() - began > 3 * TTL_S)
    first.tell("write")
    second.write_as_leader()
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.says() == "refused"
    store = open_store([etcd.endpoint])
    keys = Keys("/scaler", f"c-{request.node.name}")
    entry, leader = store.get(f"{keys.root}written-by"), read_leader(store, keys)
    store.close()
    assert entry is not None
    assert entry.value == str(second.process.pid)
    assert leader is None or leader.candidate == f"pid-{second.process.pid}"


@pytest.mark.real
def test_leadership_outlives_a_restart_of_etcd_that_is_shorter_than_the_deadline() -> None:
    with EtcdProcess() as etcd:
        store = open_store([etcd.endpoint], timeout_s=1.0)
        election = Election(store, KEYS, "a", SystemClock(), 60)  # longer than a restart on the most loaded machine
        renewing = RenewalThread([Renewal("leader", election.renew, 0.2)])
        renewing.start()
        term = election.step()
        etcd.kill()
        etcd.restart()
        assert until(lambda: _step(election))
        assert election.leadership == term
        renewing.stop()
        election.resign()
        store.close()


def _step(election: Election) -> bool:
    try:
        return election.step() is not None
    except StoreUnavailable:
        return False


# --- the renewing thread


def test_a_renewal_that_fails_is_tried_again_sooner_and_disturbs_no_other() -> None:
    calls: dict[str, list[float]] = {"good": [], "away": [], "bug": []}

    def note(name: str, error: Exception | None = None) -> Callable[[], None]:
        def renew() -> None:
            calls[name].append(time.monotonic())
            if error is not None:
                raise error

        return renew

    thread = RenewalThread(
        [
            Renewal("good", note("good"), 0.2),
            Renewal("away", note("away", StoreUnavailable("etcd is away; wait")), 0.2),
            Renewal("bug", note("bug", RuntimeError("a bug")), 0.2),
        ]
    )
    thread.start()
    assert until(lambda: len(calls["good"]) >= 5)
    thread.stop()
    counts = {name: len(times) for name, times in calls.items()}
    assert counts["away"] > counts["good"]
    assert counts["bug"] > counts["good"]
    assert not until(lambda: len(calls["good"]) > counts["good"], within_s=0.5)


def test_a_renewing_thread_may_be_stopped_from_within_and_twice() -> None:
    threads: list[RenewalThread] = []
    stopped = threading.Event()

    def renew() -> None:
        threads[0].stop()
        stopped.set()

    threads.append(RenewalThread([Renewal("one", renew, 0.01)]))
    threads[0].start()
    assert stopped.wait(10)
    threads[0].stop()
    threads[0].stop()
