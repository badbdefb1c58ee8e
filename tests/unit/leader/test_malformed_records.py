"""One record that nobody can read stops no leader, lets no instance leak, and has nothing started twice."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from scaler_plugin.coordination import malformed
from scaler_plugin.coordination.store import Delete, Put
from scaler_plugin.core.housekeeping import LISTING_LAG_S
from scaler_plugin.core.model import InstanceId, LaunchId, PoolName, QueueName

from .cluster import KEYS, POLL_S, Cluster, Died, Seat

STARTUP_S = 600.0
SPOILT = '{"launch_id": 1'


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malformed, "_told", set())


def put(cluster: Cluster, key: str, text: str = SPOILT) -> None:
    cluster.etcd.client("somebody").transact([], [Put(key, text)])


def spoil_launches(cluster: Cluster) -> None:
    for launch in cluster.launches:
        put(cluster, KEYS.launch(launch.launch_id))


def unserved(cluster: Cluster) -> str:
    return cluster.view.queues[0].unserved


def test_a_launch_record_that_cannot_be_read_holds_launching_up_for_a_minute_and_says_so(cluster: Cluster) -> None:
    seat = cluster.seat()
    put(cluster, KEYS.launch(LaunchId("l-0")))
    cluster.enqueue(2)
    cluster.passes(seat, LISTING_LAG_S - POLL_S)
    assert cluster.living == []
    assert "launch record l-0 can't be read" in unserved(cluster)
    cluster.passes(seat, 3 * POLL_S)
    assert len(cluster.living) == 2
    cluster.passes(seat, 120)
    assert len(cluster.living) == 2
    assert cluster.etcd.client("x").get(KEYS.launch(LaunchId("l-0"))), "a newer version may know what it means"


def test_a_record_that_is_removed_holds_nothing_up_any_more(cluster: Cluster) -> None:
    seat = cluster.seat()
    put(cluster, KEYS.launch(LaunchId("l-0")))
    cluster.enqueue(2)
    cluster.passes(seat, POLL_S)
    cluster.etcd.client("somebody").transact([], [Delete(KEYS.launch(LaunchId("l-0")))])
    cluster.passes(seat, POLL_S)
    assert len(cluster.living) == 2


@pytest.mark.parametrize("lag_s", [0.0, 20.0, 50.0])
def test_what_an_unreadable_record_has_launched_is_not_launched_again_though_ec2_lists_it_late(
    cluster: Cluster, lag_s: float
) -> None:
    def spoil_and_die() -> None:
        spoil_launches(cluster)
        raise Died

    cluster.fleet.faults.listing_lag_s = lag_s
    first, second = cluster.seat(), cluster.seat()
    cluster.enqueue(3)
    first.fleet.after["run_instances"] = spoil_and_die
    with pytest.raises(Died):
        first.lead()
    cluster.after_ttl()
    cluster.passes(second, 300)
    assert cluster.fleet.launched == 3


def test_instances_of_an_unreadable_record_that_never_register_are_terminated(cluster: Cluster) -> None:
    seat = cluster.seat()
    tasks = cluster.enqueue(2)
    seat.lead()
    started = {instance.instance_id for instance in cluster.living}
    spoil_launches(cluster)
    for task in tasks:
        cluster.server.dequeue(task)
    cluster.passes(seat, STARTUP_S - 60)
    assert {instance.instance_id for instance in cluster.living} == started
    cluster.passes(seat, 120)
    assert cluster.living == []


def test_instances_of_an_unreadable_record_that_register_work_as_any_other(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(2)
    seat.lead()
    spoil_launches(cluster)
    for instance in cluster.living:
        cluster.register(instance.instance_id)
    cluster.passes(seat, 2 * STARTUP_S)
    assert cluster.fleet.launched == 2
    assert len(cluster.living) == 2


def running(cluster: Cluster, seat: Seat) -> InstanceId:
    cluster.enqueue(1)
    seat.lead()
    (instance,) = cluster.living
    cluster.register(instance.instance_id)
    cluster.passes(seat, POLL_S)
    return instance.instance_id


def test_a_node_whose_record_cannot_be_read_is_left_alone_counts_and_is_no_supply(cluster: Cluster) -> None:
    seat = cluster.seat()
    instance_id = running(cluster, seat)
    del cluster.registries[instance_id]
    put(cluster, KEYS.node(instance_id))
    cluster.passes(seat, 2 * POLL_S)
    assert cluster.view.pools[0].instances == 2, "the task that waits cannot count on it"
    (other,) = [instance.instance_id for instance in cluster.living if instance.instance_id != instance_id]
    cluster.register(other)
    cluster.passes(seat, POLL_S)
    asked = seat.server.calls
    cluster.passes(seat, 2 * STARTUP_S)
    assert seat.server.calls - asked <= 2 * STARTUP_S / POLL_S * 1.2, "no pass takes it for an instance without a node"
    assert instance_id in {instance.instance_id for instance in cluster.living}
    assert cluster.launches == (), "it has registered: no launch waits for it"


def test_no_task_is_put_back_that_a_node_without_a_readable_record_may_have_popped(cluster: Cluster) -> None:
    seat = cluster.seat()
    instance_id = running(cluster, seat)
    put(cluster, KEYS.node(instance_id))
    del cluster.registries[instance_id]
    task = cluster.server.get_next_task(QueueName("cpu-tasks"))
    cluster.passes(seat, 600)
    assert cluster.events("rescued") == []
    cluster.register(instance_id)
    cluster.passes(seat, 120)
    assert [event.about for event in cluster.events("rescued")] == [task]


@pytest.mark.parametrize(
    "key",
    [
        KEYS.cooldown(PoolName("cpu")),
        KEYS.start(PoolName("cpu")),
        f"{KEYS.handbacks}i-1/t-1",
        KEYS.drain_request(InstanceId("i-1")),
        KEYS.protect_request(InstanceId("i-1")),
        f"{KEYS.events}0-0",
        KEYS.view,
    ],
)
def test_a_record_of_any_other_kind_stops_nothing_and_is_one_line_in_the_log(cluster: Cluster, key: str) -> None:
    seat = cluster.seat()
    put(cluster, key)
    with capture_logs() as logs:
        cluster.enqueue(2)
        cluster.passes(seat, 60)
    assert len(cluster.living) == 2
    told = [line for line in logs if key in str(line.get("error", ""))]
    assert len(told) <= 1
    assert told or key in (KEYS.view, f"{KEYS.events}0-0"), "those the leader does not read"
