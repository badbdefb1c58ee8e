"""The published snapshot: equal when nothing changed, and what it tells a node."""

from __future__ import annotations

from typing import Any

from scaler_plugin.core.backoff import FIRST_DELAY_S, LONGEST_DELAY_S, Backoff
from scaler_plugin.core.model import PoolName, Problem
from scaler_plugin.core.observation import Cooldown, Observation
from scaler_plugin.core.planning import plan_launches
from scaler_plugin.core.view import View, make_view


def view(make: Any, observation: Observation, now: float, problems: tuple[Problem, ...] = ()) -> View:
    policy = make.policy(make.pool("cpu", ("a", "b"), maximum=1), make.pool("gpu", "g", maximum=1))
    return make_view(3, "i-1", 7, policy, observation, plan_launches(policy, observation, now), problems)


def test_two_passes_in_which_nothing_changed_give_equal_views(make: Any) -> None:
    cooldown = Cooldown(PoolName("gpu"), 2, make.now + 100, "no capacity")
    observation = Observation(
        nodes=(make.node("i-1"),), backlogs=make.backlogs(a=2, g=1), instances=(), cooldowns=(cooldown,)
    )
    assert view(make, observation, make.now) == view(make, observation, make.now + 2)


def test_a_problems_details_are_no_change(make: Any) -> None:
    seen = Observation(backlogs={}, instances=())
    first, second = (Problem("EC2", "away", "wait", 1.0, detail=detail) for detail in ("x", "y"))
    assert view(make, seen, make.now, (first,)) == view(make, seen, make.now, (second,))


def test_a_nodes_backlog_is_that_of_all_its_pools_queues(make: Any) -> None:
    made = view(make, Observation(backlogs=make.backlogs(a=2, b=3, g=9), instances=()), make.now)
    assert made.backlog_of(make.pool("cpu", ("a", "b"))) == 5
    assert made.backlog_known
    assert not view(make, Observation(backlogs=None, instances=()), make.now).backlog_known


def test_each_failure_in_a_row_waits_longer_with_at_most_half_by_chance() -> None:
    backoff, delays = Backoff(), []
    assert backoff.ready(0.0)
    for _ in range(200):
        low, high = (backoff.after_failure(0.0, jitter).until for jitter in (0.0, 1.0))
        assert low == high / 2
        delays.append(high)
        backoff = backoff.after_failure(0.0, 0.5)
        assert not backoff.ready(backoff.until - 0.001)
        assert backoff.ready(backoff.until)
    assert delays[0] == FIRST_DELAY_S
    assert delays[-1] == LONGEST_DELAY_S
    assert delays == sorted(delays)
