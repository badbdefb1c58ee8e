"""What to do next with a launch record."""

from __future__ import annotations

from typing import Any

import pytest

from scaler_plugin.core.launching import (
    COOLDOWN_LONGEST_S,
    cooldown_after,
    found_by_tag,
    is_complete,
    new_launch,
    refused,
    still_awaited,
    succeeded,
)
from scaler_plugin.core.model import InstanceId, InstanceState, LaunchId
from scaler_plugin.core.observation import Cooldown, Observation


def record(make: Any, candidates: int = 3) -> Any:
    requests = tuple(make.request("l", instance_type=f"t{i}") for i in range(candidates))
    return new_launch(LaunchId("l"), 2, 1, 7, "why", requests, make.now)


def test_a_new_record_has_its_first_attempt_open_and_stands_for_its_whole_count(make: Any) -> None:
    launch = record(make)
    assert launch.open_attempt is launch.attempts[0]
    assert (launch.count, launch.awaited, launch.term, launch.pool) == (2, (), 7, "cpu")
    assert not is_complete(launch)


def test_a_refused_attempt_opens_the_next_candidate_in_the_same_record_until_none_is_left(make: Any) -> None:
    launch = record(make, candidates=2)
    second = refused(launch, "no capacity", make.now + 1)
    assert second is not None
    assert [attempt.error for attempt in second.attempts] == ["no capacity", None]
    assert second.open_attempt is not None
    assert second.open_attempt.request.instance_type == "t1"
    assert second.open_attempt.token != launch.attempts[0].token
    assert refused(second, "no capacity", make.now + 2) is None


def test_at_most_one_attempt_is_ever_open(make: Any) -> None:
    launch: Any = record(make, candidates=5)
    while launch is not None:
        assert sum(attempt.open for attempt in launch.attempts) == 1
        launch = refused(launch, "no", make.now)


def test_an_answered_record_awaits_exactly_its_instances_from_the_time_of_the_answer(make: Any) -> None:
    launch = succeeded(record(make), (InstanceId("i-1"),), make.now + 500)
    assert launch.open_attempt is None
    assert launch.awaited == ("i-1",)
    assert launch.awaited_since == make.now + 500
    with pytest.raises(ValueError, match="no open attempt"):
        succeeded(launch, (InstanceId("i-2"),), make.now)


def test_instances_found_by_tag_that_have_ended_are_not_awaited(make: Any) -> None:
    found = (make.instance("i-1"), make.instance("i-2", state=InstanceState.TERMINATED))
    launch = found_by_tag(record(make), found, make.now)
    assert launch.instance_ids == ("i-1", "i-2")
    assert launch.awaited == ("i-1",)
    ended = found_by_tag(record(make), found[1:], make.now)
    assert is_complete(ended), "there is nobody left to wait for"


def test_a_record_is_complete_when_each_instance_has_registered_or_ended(make: Any) -> None:
    launch = make.launch(count=2, started=("i-1", "i-2"))
    seen = Observation(nodes=(make.node("i-1"),), instances=(make.instance("i-2", state=InstanceState.SHUTTING_DOWN),))
    assert is_complete(still_awaited(launch, seen))
    assert still_awaited(launch, Observation()) is launch


def test_each_failure_in_a_row_doubles_the_pause_up_to_the_longest(make: Any) -> None:
    cooldown: Cooldown | None = None
    pauses = []
    for _ in range(2000):
        cooldown = cooldown_after(cooldown, record(make), "no", make.now)
        pauses.append(cooldown.until - make.now)
    assert pauses[:4] == [15.0, 30.0, 60.0, 120.0]
    assert pauses[-1] == COOLDOWN_LONGEST_S
    assert pauses == sorted(pauses)
