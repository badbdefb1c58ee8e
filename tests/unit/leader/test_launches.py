"""Launches happen exactly once, whoever leads and wherever the leader dies: protocol 2."""

from __future__ import annotations

import pytest

from scaler_plugin.cloud.memory_faults import Failure, Shortage
from scaler_plugin.core.model import InstanceState, PoolName, QueueName
from scaler_plugin.core.offerings import FIRST_REST_S
from scaler_plugin.core.policy import PoolPolicy
from scaler_plugin.errors import CloudRefused, NotLeader, StoreUnavailable
from scaler_plugin.leader.unsettled import LOST_AFTER_S

from .cluster import POLL_S, Cluster, Died, Seat


def die() -> None:
    raise Died


def test_a_waiting_task_is_launched_for_in_one_pass_with_a_record_that_names_the_instances(cluster: Cluster) -> None:
    cluster.enqueue(3)
    cluster.seat().lead()
    (launch,) = cluster.launches
    assert len(cluster.living) == 3
    assert set(launch.awaited) == {instance.instance_id for instance in cluster.living}
    assert all(instance.launch_id == launch.launch_id for instance in cluster.living)


def test_the_record_goes_when_every_instance_has_registered(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(2)
    seat.lead()
    first, second = cluster.living
    cluster.register(first.instance_id)
    cluster.passes(seat, POLL_S)
    assert cluster.launches[0].awaited == (second.instance_id,)
    cluster.register(second.instance_id)
    cluster.passes(seat, POLL_S)
    assert cluster.launches == ()
    assert len(cluster.living) == 2


def test_booting_instances_keep_the_same_tasks_from_being_launched_for_again(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(3)
    cluster.passes(seat, 60)
    assert len(cluster.living) == 3


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("lag_s", [0.0, 20.0])
def test_a_leader_that_dies_around_its_call_has_a_successor_that_starts_nothing_twice(
    cluster: Cluster, when: str, lag_s: float
) -> None:
    cluster.fleet.faults.listing_lag_s = lag_s
    first, second = cluster.seat(), cluster.seat()
    cluster.enqueue(3)
    getattr(first.fleet, when)["run_instances"] = die
    with pytest.raises(Died):
        first.lead()
    (left,) = cluster.launches
    assert left.open_attempt is not None, "the record is written before the call"
    cluster.after_ttl()
    cluster.passes(second, 40)
    assert len(cluster.living) == 3
    (launch,) = cluster.launches
    assert launch.launch_id == left.launch_id
    assert len(launch.awaited) == 3


def test_a_lost_answer_of_ec2_is_found_out_by_the_same_leader(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(2)
    cluster.fleet.faults.fail_next("run_instances", Failure.LOST_ANSWER)
    seat.lead()
    assert cluster.launches[0].open_attempt is not None
    cluster.passes(seat, 10)
    assert len(cluster.launches[0].awaited) == len(cluster.living) == 2


def test_a_lost_answer_of_etcd_leaves_a_record_that_the_next_pass_goes_on_from(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(2)
    seat.fleet.after["run_instances"] = seat.store.partition
    with pytest.raises(StoreUnavailable):
        seat.lead()
    seat.store.heal()
    cluster.passes(seat, 10)
    assert len(cluster.living) == 2
    assert len(cluster.launches[0].awaited) == 2


def test_a_paused_leader_makes_no_call_to_ec2_and_no_write(cluster: Cluster) -> None:
    paused, other = cluster.seat(), cluster.seat()
    paused.lead()
    cluster.after_ttl()
    other.lead()
    cluster.enqueue(1)
    revision, calls = cluster.revision, sum(paused.fleet.calls.values())
    with pytest.raises(NotLeader):
        paused.leader.step()
    assert paused.fleet.calls["run_instances"] == 0
    assert sum(paused.fleet.calls.values()) <= calls + 1, "at most a listing, which changes nothing"
    assert cluster.revision == revision


def test_a_leader_that_is_paused_after_its_record_does_not_call_ec2_when_it_goes_on(cluster: Cluster) -> None:
    paused, other = cluster.seat(), cluster.seat()
    cluster.enqueue(2)
    written = paused.store.transact

    def pause_after_the_record(compare: object, writes: object) -> object:
        answer = written(compare, writes)  # type: ignore[arg-type]
        if cluster.launches:
            paused.store.transact = written  # type: ignore[method-assign]
            cluster.after_ttl()
            other.lead()
        return answer

    paused.election.step()
    paused.store.transact = pause_after_the_record  # type: ignore[method-assign, assignment]
    with pytest.raises(NotLeader):
        paused.leader.step()
    assert paused.fleet.calls["run_instances"] == 0
    assert len(cluster.living) == 2


def test_when_ec2_has_no_room_for_a_type_the_next_one_is_tried_in_the_same_pass(cluster: Cluster) -> None:
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 10), types=("a", "b", "c"))
    cluster.fleet.faults.shortages = [Shortage("a"), Shortage("b")]
    cluster.enqueue(1)
    cluster.seat().lead()
    assert [instance.instance_type for instance in cluster.living] == ["c"]
    (launch,) = cluster.launches
    assert [attempt.error is None for attempt in launch.attempts] == [False, False, True]
    assert len({attempt.token for attempt in launch.attempts}) == 3


def test_a_type_that_was_refused_is_tried_last_for_a_while_also_by_the_next_leader(cluster: Cluster) -> None:
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 10), types=("a", "b", "c"))
    cluster.fleet.faults.shortages = [Shortage("a"), Shortage("b")]
    first, second = cluster.seat(), cluster.seat()
    cluster.enqueue(1)
    first.lead()
    assert first.fleet.calls["run_instances"] == 3
    cluster.enqueue(1)
    first.lead()
    assert first.fleet.calls["run_instances"] == 4, "a and b were refused a moment ago"
    first.election.resign()
    cluster.enqueue(1)
    second.lead()
    assert second.fleet.calls["run_instances"] == 1
    assert [instance.instance_type for instance in cluster.living] == ["c", "c", "c"]
    assert "pool cpu" not in cluster.problems(), "nothing failed"
    cluster.fleet.faults.shortages = []
    cluster.passes(second, FIRST_REST_S)
    cluster.enqueue(1)
    cluster.passes(second, POLL_S)
    assert [instance.instance_type for instance in cluster.living][-1] == "a", "the preferred one, as it has room again"


def test_a_refused_type_is_tried_all_the_same_when_the_others_are_refused_too(cluster: Cluster) -> None:
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 10), types=("a", "b"))
    cluster.fleet.faults.shortages = [Shortage("a")]
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()
    cluster.fleet.faults.shortages = [Shortage("b")]
    cluster.enqueue(1)
    seat.lead()
    assert [instance.instance_type for instance in cluster.living] == ["b", "a"]


def test_when_no_type_is_left_the_pool_pauses_longer_each_time_and_the_next_leader_pauses_too(cluster: Cluster) -> None:
    first, second = cluster.seat(), cluster.seat()
    cluster.fleet.faults.shortages = [Shortage()]
    cluster.enqueue(1)
    cluster.passes(first, 120)
    assert first.fleet.calls["run_instances"] in (3, 4), "15, 30, 60 s between tries"
    assert cluster.launches == ()
    assert "no room" in cluster.problems()["pool cpu"]
    assert "pauses after a failed launch" in cluster.view.queues[0].unserved
    first.election.resign()
    cluster.passes(second, 10)
    assert second.fleet.calls["run_instances"] == 0
    cluster.fleet.faults.shortages = []
    cluster.passes(second, 130)
    assert len(cluster.living) == 1
    assert "pool cpu" not in cluster.problems()


def test_fewer_instances_than_asked_for_are_taken_and_the_rest_is_launched_next(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.fleet.faults.shortages = [Shortage(available=2)]
    cluster.enqueue(5)
    cluster.passes(seat, 30)
    assert len(cluster.living) == 5


def test_a_token_that_ec2_knows_with_other_parameters_starts_nothing_is_shown_and_is_given_up_in_the_end(
    cluster: Cluster,
) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)

    def mismatch() -> None:
        seat.fleet.before["run_instances"] = mismatch
        raise CloudRefused("EC2 refused: the token has other parameters.", "IdempotentParameterMismatch")

    seat.fleet.before["run_instances"] = mismatch
    seat.lead()
    (launch,) = cluster.launches
    cluster.passes(seat, 60)
    assert cluster.launches == (launch,)
    assert f"launch {launch.launch_id}" in cluster.problems()
    cluster.passes(seat, LOST_AFTER_S)
    assert launch not in cluster.launches
    assert cluster.events("launch_given_up")


def test_a_launch_whose_instances_have_come_and_gone_unseen_is_not_repeated_with_another_type(cluster: Cluster) -> None:
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 10), types=("a", "b"))
    first, second = cluster.seat(), cluster.seat()
    (task,) = cluster.enqueue(1)
    first.fleet.after["run_instances"] = die
    with pytest.raises(Died):
        first.lead()
    cluster.fleet.terminate([cluster.living[0].instance_id])
    cluster.server.dequeue(task)
    cluster.clock.advance(2 * 3600)  # EC2 lists it no more
    cluster.passes(second, 10)
    assert cluster.launches == ()
    assert cluster.living == []


def test_a_successor_without_rights_does_not_take_its_own_refusal_for_the_outcome_of_the_first_call(
    cluster: Cluster,
) -> None:
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 10), types=("a", "b"))
    cluster.fleet.faults.listing_lag_s = 30.0
    first, second = cluster.seat(), cluster.seat()
    cluster.enqueue(1)
    first.fleet.after["run_instances"] = die
    with pytest.raises(Died):
        first.lead()
    cluster.after_ttl()

    def refused() -> None:
        second.fleet.before["run_instances"] = refused
        raise CloudRefused("EC2 refused RunInstances.", "UnauthorizedOperation")

    second.fleet.before["run_instances"] = refused
    second.lead()
    (launch,) = cluster.launches
    assert launch.open_attempt is not None, (
        "the first call may have been made: only EC2's listing or its token can tell"
    )
    cluster.passes(second, 60)
    assert len(cluster.living) == 1
    assert len(cluster.launches[0].awaited) == 1


def test_a_throttled_launch_is_tried_again_ever_more_seldom_although_listings_work(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)

    def throttle() -> None:
        cluster.fleet.faults.fail_next("run_instances", Failure.THROTTLED)
        seat.fleet.before["run_instances"] = throttle

    seat.fleet.before["run_instances"] = throttle
    cluster.passes(seat, 120)
    assert 5 <= seat.fleet.calls["run_instances"] <= 9, "1, 2, 4, 8, 16, 32, 60 s apart and not every 2 s"
    assert "EC2 RunInstances" in cluster.problems()
    assert seat.leader.blind_for_s == 0.0


def test_a_launch_that_is_answered_late_gives_its_instances_their_whole_startup_timeout(cluster: Cluster) -> None:
    first, second = cluster.seat(), cluster.seat()
    cluster.enqueue(1)
    first.fleet.before["run_instances"] = die
    with pytest.raises(Died):
        first.lead()
    cluster.clock.advance(3600)  # nobody led for an hour
    cluster.passes(second, 300)
    assert [instance.state for instance in cluster.living] == [InstanceState.RUNNING]
    assert cluster.events("start_failed") == []


def test_a_new_launch_after_etcd_was_emptied_never_reuses_a_token(cluster: Cluster) -> None:
    tokens = []
    for _ in range(3):
        seat: Seat = cluster.seat()
        cluster.enqueue(1)
        seat.lead()
        tokens += [attempt.token for launch in cluster.launches for attempt in launch.attempts]
        cluster.etcd.wipe()
        cluster.fleet.terminate([instance.instance_id for instance in cluster.living])
        cluster.clock.advance(1)
    assert len(tokens) == len(set(tokens)) > 0
    assert all(len(token) <= 64 for token in tokens)


def test_after_etcd_was_emptied_no_second_fleet_is_launched(cluster: Cluster) -> None:
    first, second = cluster.seat(), cluster.seat()
    cluster.enqueue(4)
    first.lead()
    cluster.etcd.wipe()
    cluster.passes(second, 60)
    assert len(cluster.living) == 4
