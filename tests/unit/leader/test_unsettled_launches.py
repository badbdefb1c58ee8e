"""A launch whose outcome EC2 does not tell holds up no other pool, is never carried out twice, and is given up in the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scaler_plugin.core.model import InstanceId, LaunchRequest, PoolName, QueueName
from scaler_plugin.core.policy import PoolPolicy
from scaler_plugin.errors import CloudError, CloudFailed, CloudRefused, CloudUnavailable
from scaler_plugin.leader.launcher import BUDGET_TTLS
from scaler_plugin.leader.unsettled import LOST_AFTER_S

from .cluster import POLL_S, TTL_S, Cluster, Died, Seat

SICK, WELL = PoolName("sick"), PoolName("well")
NOT_ALLOWED = CloudRefused("EC2 refused RunInstances: you are not authorized.", "UnauthorizedOperation")
FAILED = CloudFailed("EC2 failed at RunInstances: an internal error.", "InternalError")
SILENT = CloudUnavailable("EC2 did not answer RunInstances.", "ReadTimeoutError")
THROTTLED = CloudUnavailable("EC2 throttles RunInstances.", "RequestLimitExceeded")
#: A record that is given up may have been asked for last just before.
GIVEN_UP_WITHIN_S = LOST_AFTER_S + 61 + 2 * POLL_S


def some_pools(cluster: Cluster, *names: PoolName) -> None:
    pools = [PoolPolicy(pool, (QueueName(f"{pool}-tasks"),), 10) for pool in names]
    for pool in pools:
        cluster.server.create_queue(pool.queues[0])
    cluster.set_policy(*pools)


Run = Callable[[LaunchRequest, str], tuple[InstanceId, ...]]


def intercept(cluster: Cluster, act: Callable[[Run, LaunchRequest, str], tuple[InstanceId, ...]]) -> None:
    """Every call of RunInstances goes through ``act``, whoever makes it."""
    run = cluster.fleet.run_instances
    cluster.fleet.run_instances = lambda request, token: act(run, request, token)  # type: ignore[method-assign]


class Answers:
    """EC2's errors to the calls for the sick pool, the last of them for ever; the times of the calls."""

    def __init__(self, cluster: Cluster, *errors: CloudError) -> None:
        self._cluster = cluster
        self._errors = list(errors)
        self.calls: list[float] = []
        intercept(cluster, self._act)

    def _act(self, run: Run, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        if request.pool == SICK and self._errors:
            self.calls.append(self._cluster.clock.now())
            raise self._errors.pop(0) if len(self._errors) > 1 else self._errors[0]
        return run(request, token)

    def recover(self) -> None:
        self._errors.clear()


def launched_for(cluster: Cluster, pool: PoolName) -> int:
    return sum(1 for instance in cluster.living if instance.pool == pool)


@pytest.mark.parametrize(
    "errors", [(THROTTLED, NOT_ALLOWED), (FAILED,), (SILENT,)], ids=["refused", "failed", "silent"]
)
def test_a_launch_that_is_not_settled_holds_up_no_other_pool_and_is_asked_for_ever_more_seldom(
    cluster: Cluster, errors: tuple[CloudError, ...]
) -> None:
    some_pools(cluster, SICK, WELL)
    seat, answers = cluster.seat(), Answers(cluster, *errors)
    cluster.enqueue(1, "sick-tasks")
    cluster.passes(seat, 120)
    assert launched_for(cluster, WELL) == 0
    cluster.enqueue(3, "well-tasks")
    cluster.passes(seat, 70)
    assert launched_for(cluster, WELL) == 3
    assert len(answers.calls) <= 12
    (unsettled,) = [launch for launch in cluster.launches if launch.pool == SICK]
    assert unsettled.open_attempt is not None
    assert f"launch {unsettled.launch_id}" in cluster.problems()


def test_many_launches_that_are_not_settled_do_not_hold_up_a_new_one_either(cluster: Cluster) -> None:
    sick = [PoolName(f"sick-{number}") for number in range(10)]
    some_pools(cluster, *sick, WELL)
    seat = cluster.seat()

    def act(run: Run, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        if request.pool in sick:
            raise FAILED
        return run(request, token)

    intercept(cluster, act)
    for pool in sick:
        cluster.enqueue(1, f"{pool}-tasks")
    cluster.passes(seat, 120)
    assert len(cluster.launches) == len(sick)
    cluster.enqueue(1, "well-tasks")
    cluster.passes(seat, POLL_S)
    assert launched_for(cluster, WELL) == 1


def test_a_pool_starts_no_other_launch_before_what_became_of_the_last_one_is_known(cluster: Cluster) -> None:
    some_pools(cluster, SICK, WELL)
    seat, answers = cluster.seat(), Answers(cluster, FAILED)
    for _ in range(30):
        cluster.enqueue(1, "sick-tasks")
        cluster.passes(seat, 10)
        assert len(cluster.launches) == 1
    answers.recover()
    cluster.passes(seat, 70)
    assert launched_for(cluster, SICK) == 10


@pytest.mark.parametrize("errors", [(THROTTLED, NOT_ALLOWED), (FAILED,)], ids=["refused", "failed"])
def test_it_is_given_up_after_a_time_and_the_pool_pauses_and_goes_on_when_ec2_does(
    cluster: Cluster, errors: tuple[CloudError, ...]
) -> None:
    some_pools(cluster, SICK, WELL)
    seat, answers = cluster.seat(), Answers(cluster, *errors)
    cluster.enqueue(2, "sick-tasks")
    cluster.passes(seat, POLL_S)
    (first,) = cluster.launches
    cluster.passes(seat, LOST_AFTER_S - 2 * POLL_S)
    assert [launch.launch_id for launch in cluster.launches] == [first.launch_id], "given up too early"
    cluster.passes(seat, GIVEN_UP_WITHIN_S - LOST_AFTER_S)
    assert first.launch_id not in [launch.launch_id for launch in cluster.launches]
    assert len(cluster.events("launch_given_up")) == 1
    answers.recover()
    cluster.passes(seat, 120)
    assert launched_for(cluster, SICK) == 2


def test_after_it_is_given_up_another_type_is_tried_first(cluster: Cluster) -> None:
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 10), types=("a", "b"))
    seat = cluster.seat()

    def act(run: Run, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        if request.instance_type == "a":
            raise FAILED
        return run(request, token)

    intercept(cluster, act)
    cluster.enqueue(1)
    cluster.passes(seat, GIVEN_UP_WITHIN_S + 60)
    assert [instance.instance_type for instance in cluster.living] == ["b"]


def test_a_refusal_that_lasts_is_the_answer_to_the_next_launch(cluster: Cluster) -> None:
    some_pools(cluster, SICK, WELL)
    seat = cluster.seat()
    Answers(cluster, THROTTLED, NOT_ALLOWED)
    cluster.enqueue(1, "sick-tasks")
    cluster.passes(seat, GIVEN_UP_WITHIN_S + 60)
    assert cluster.launches == ()
    assert "not authorized" in cluster.problems()["pool sick"]


@pytest.mark.parametrize("error", [FAILED, SILENT])
@pytest.mark.parametrize("lag_s", [0.0, 55.0])
@pytest.mark.parametrize("which", [1, 3, -1])
def test_a_call_that_took_effect_although_it_failed_is_found_and_nothing_is_started_twice(
    cluster: Cluster, error: CloudError, lag_s: float, which: int
) -> None:
    """``which`` call it is; -1 is any in the minute before the launch is given up."""
    some_pools(cluster, SICK, WELL)
    cluster.fleet.faults.listing_lag_s = lag_s
    seat, calls, started = cluster.seat(), [0], [0.0]
    began = cluster.clock.now()

    def act(run: Run, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        calls[0] += 1
        late = which == -1 and cluster.clock.now() - began > LOST_AFTER_S - 65
        if not started[0] and (calls[0] == which or late):
            run(request, token)
            started[0] = cluster.clock.now()
        raise error

    intercept(cluster, act)
    cluster.enqueue(2, "sick-tasks")
    for _ in range(int((GIVEN_UP_WITHIN_S + 60) / POLL_S)):
        cluster.passes(seat, POLL_S)
        assert cluster.fleet.launched <= 2
        if any(launch.instance_ids for launch in cluster.launches):
            break
    assert started[0], "no call took effect"
    assert len(cluster.living) == 2
    (launch,) = cluster.launches
    assert set(launch.awaited) == {instance.instance_id for instance in cluster.living}
    assert cluster.events("launch_given_up") == []


def test_a_successor_asks_once_for_an_old_launch_and_waits_for_the_listing_before_it_gives_it_up(
    cluster: Cluster,
) -> None:
    some_pools(cluster, SICK, WELL)
    first, second = cluster.seat(), cluster.seat()
    cluster.enqueue(1, "sick-tasks")
    cluster.fleet.faults.listing_lag_s = 50.0
    first.fleet.before["run_instances"] = lambda: (_ for _ in ()).throw(Died())
    with pytest.raises(Died):
        first.lead()
    (launch,) = cluster.launches
    cluster.clock.advance(2 * LOST_AFTER_S)
    # What an earlier leader asked for a moment ago is not listed yet.
    assert launch.open_attempt is not None
    cluster.fleet.run_instances(launch.open_attempt.request, launch.open_attempt.token)
    answers = Answers(cluster, NOT_ALLOWED)
    cluster.passes(second, 120)
    assert len(answers.calls) >= 1
    assert cluster.fleet.launched == 1
    assert cluster.launches[0].awaited == (cluster.living[0].instance_id,)


def test_those_of_which_some_are_listed_are_taken_when_its_time_is_over(cluster: Cluster) -> None:
    some_pools(cluster, SICK, WELL)
    seat = cluster.seat()

    def act(run: Run, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        if cluster.fleet.launched == 0:
            cluster.fleet.faults.account_limit = 2
            run(request, token)
        raise FAILED

    intercept(cluster, act)
    tasks = cluster.enqueue(5, "sick-tasks")
    cluster.passes(seat, 60)
    for task in tasks:
        cluster.server.dequeue(task)
    cluster.passes(seat, GIVEN_UP_WITHIN_S)
    assert cluster.fleet.launched == 2
    assert cluster.launches == () or len(cluster.launches[0].instance_ids) == 2
    assert cluster.events("launch_given_up") == []


def slow_refusals(cluster: Cluster, seat: Seat, each_s: float, types: int) -> list[str]:
    """EC2 takes its time to refuse each type of the pool but the last."""
    names = tuple(f"type-{number}" for number in range(types))
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 10), types=names)
    tried: list[str] = []

    def act(run: Run, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        for _ in range(int(each_s)):
            cluster.clock.advance(1)
            seat.election.renew()  # its own thread does this
        tried.append(request.instance_type)
        if request.instance_type != names[-1]:
            raise NOT_ALLOWED
        return run(request, token)

    intercept(cluster, act)
    return tried


def test_a_pass_over_many_candidates_ends_in_time_and_the_next_one_goes_on_with_the_next_candidate(
    cluster: Cluster,
) -> None:
    seat = cluster.seat()
    tried = slow_refusals(cluster, seat, 4, types=20)
    cluster.enqueue(1)
    passes = 0
    while not cluster.living and passes < 40:
        before = cluster.clock.monotonic()
        seat.lead()
        assert cluster.clock.monotonic() - before <= BUDGET_TTLS * TTL_S + 4
        passes += 1
    assert passes > 1
    assert tried == [f"type-{number}" for number in range(20)], "each is tried once, in order"
    (launch,) = cluster.launches
    assert launch.awaited == (cluster.living[0].instance_id,)
