"""Hundreds of instances that do not start cost no term: they are counted first, once each, and few of their consoles are read."""

from __future__ import annotations

import pytest

from scaler_plugin.coordination.start_records import read_start_records
from scaler_plugin.core.breaker import FailedStart, after_failures
from scaler_plugin.core.model import InstanceId, PoolName, QueueName
from scaler_plugin.core.planning import MAX_INSTANCES_PER_LAUNCH
from scaler_plugin.core.policy import PoolPolicy
from scaler_plugin.errors import CloudUnavailable
from scaler_plugin.leader.start_watch import BUDGET_TTLS, MOST_CONSOLES, MOST_TOLD_LATER

from .cluster import KEYS, POLL_S, TTL_S, Cluster, Died, Seat

MANY = 250


def many_booting(cluster: Cluster) -> Seat:
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 2 * MANY), maximum=2 * MANY)
    seat = cluster.seat()
    tasks = cluster.enqueue(MANY)
    cluster.passes(seat, 4 * POLL_S)
    assert len(cluster.living) == MANY
    for task in tasks:
        cluster.server.dequeue(task)
    return seat


def cannot_be_terminated(cluster: Cluster) -> None:
    """They stay, late and awaited."""

    def terminate(_ids: object) -> None:
        raise CloudUnavailable("EC2 does not answer TerminateInstances.")

    cluster.fleet.terminate = terminate  # type: ignore[method-assign]


def until_they_are_late(cluster: Cluster, seat: Seat) -> None:
    cluster.passes(seat, 590)
    assert counted(cluster) == 0
    while counted(cluster) == 0:
        cluster.passes(seat, POLL_S)


def counted(cluster: Cluster) -> int:
    return sum(record.in_a_row for record in read_start_records(cluster.etcd.client("observer"), KEYS))


def slow_consoles(cluster: Cluster, seat: Seat, each_s: float) -> None:
    read = cluster.fleet.console_output

    def slowly(instance_id: InstanceId) -> str:
        for _ in range(int(each_s)):
            cluster.clock.advance(1)
            seat.election.renew()  # its own thread does this
        return read(instance_id)

    cluster.fleet.console_output = slowly  # type: ignore[method-assign]


def test_late_ones_are_counted_once_each_for_as_long_as_they_are_awaited(cluster: Cluster) -> None:
    seat = many_booting(cluster)
    cannot_be_terminated(cluster)
    until_they_are_late(cluster, seat)
    cluster.passes(seat, 600)
    assert counted(cluster) == MANY
    assert len(cluster.events("pool_paused")) == 1
    assert seat.fleet.calls["console_output"] <= MOST_CONSOLES * 3


def test_a_pass_reads_few_consoles_and_gives_slow_ones_up(cluster: Cluster) -> None:
    seat = many_booting(cluster)
    cannot_be_terminated(cluster)
    slow_consoles(cluster, seat, 8)
    cluster.passes(seat, 590)
    while counted(cluster) == 0:
        cluster.clock.advance(POLL_S)
        before = cluster.clock.monotonic()
        seat.lead()
        assert cluster.clock.monotonic() - before <= BUDGET_TTLS * TTL_S + 8
    assert seat.fleet.calls["console_output"] == 2
    assert len(cluster.events("pool_paused")) == 1


def test_all_are_counted_before_a_console_is_read(cluster: Cluster) -> None:
    first, second = many_booting(cluster), cluster.seat()
    cannot_be_terminated(cluster)

    def die() -> None:
        raise Died

    first.fleet.before["console_output"] = die
    with pytest.raises(Died):
        cluster.passes(first, 620)
    assert counted(cluster) == MAX_INSTANCES_PER_LAUNCH, "all that were late in that pass"
    cluster.after_ttl()
    cluster.passes(second, 60)
    assert counted(cluster) == MANY


def test_of_many_that_end_early_each_pass_tells_a_few_at_length_and_of_very_many_the_last_by_number(
    cluster: Cluster,
) -> None:
    seat = many_booting(cluster)
    for instance in cluster.living:
        cluster.fleet.write_console(instance.instance_id, "scaler-sidecar[1]: No GPU answers.")
        cluster.fleet.guest_shut_down(instance.instance_id)
    consoles = 0
    for _ in range(20):
        cluster.passes(seat, POLL_S)
        assert seat.fleet.calls["console_output"] - consoles <= MOST_CONSOLES
        consoles = seat.fleet.calls["console_output"]
    assert counted(cluster) == MANY
    told = cluster.events("start_failed")
    assert len({event.about for event in told}) == len(told) == MOST_CONSOLES + MOST_TOLD_LATER
    assert {event.sentence.rpartition("It said: ")[2] for event in told} == {"No GPU answers."}
    (rest,) = cluster.events("starts_failed")
    assert f"{MANY - MOST_CONSOLES - MOST_TOLD_LATER} more of pool cpu" in rest.sentence
    (paused,) = cluster.events("pool_paused")
    assert "No GPU answers." in paused.sentence
    assert f"{MANY} instances in a row" in paused.sentence


def test_a_failure_is_forgotten_only_when_it_cannot_be_reported_again() -> None:
    pool, ids = PoolName("cpu"), [InstanceId(f"i-{number}") for number in range(1000)]
    failures = [FailedStart(instance_id, "It did not start.") for instance_id in ids]
    record = after_failures(None, pool, failures, 1, 0.0, frozenset(ids[:500]))
    assert record is not None
    assert after_failures(record, pool, failures[:500], 1, 9999.0, frozenset(ids[:500])) == record
    later = after_failures(record, pool, [FailedStart(InstanceId("i-new"), "It did not start.")], 1, 9999.0)
    assert later is not None
    assert len(later.failed) < 300, "the record does not grow for ever"
