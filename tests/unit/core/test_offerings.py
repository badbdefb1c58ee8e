"""What EC2 refused lately is tried last, ever longer, and never left out."""

from __future__ import annotations

from scaler_plugin.core.launching import new_launch, refused, succeeded
from scaler_plugin.core.model import InstanceId, Launch, LaunchId, LaunchRequest, Market, PoolName
from scaler_plugin.core.offerings import (
    FIRST_REST_S,
    FORGOTTEN_AFTER_S,
    LONGEST_REST_S,
    RefusedOffering,
    after_answers,
    in_order_of_hope,
)

ID, POOL = LaunchId("l-1"), PoolName("p")


def candidate(kind: str, place: str = "zone-a", market: Market = Market.SPOT) -> LaunchRequest:
    return LaunchRequest("c", POOL, ID, 1, kind, "ami-1", market, zone=place)


def launch(*candidates: LaunchRequest, refusals: int, successful: bool = True) -> Launch:
    made = new_launch(ID, 1, 1, 1, "", candidates, 0.0)
    for _ in range(refusals):
        after = refused(made, "no", 0.0)
        assert after is not None
        made = after
    return succeeded(made, (InstanceId("i-1"),), 0.0) if successful else made


A, B, C = candidate("a"), candidate("b"), candidate("c")


def test_an_offering_that_rests_is_tried_behind_all_others_in_the_users_order() -> None:
    known = after_answers((), launch(A, B, C, refusals=2), 100.0)
    assert in_order_of_hope((A, B, C), known, 101.0) == (C, A, B)
    assert in_order_of_hope((A, B, C), known, 101.0 + FIRST_REST_S) == (A, B, C)


def test_it_rests_longer_with_each_refusal_in_a_row_up_to_a_bound() -> None:
    known: tuple[RefusedOffering, ...] = ()
    rests, now = [], 0.0
    for _ in range(50):
        known = after_answers(known, launch(A, B, refusals=1), now)
        rests.append(known[0].until - now)
        now = known[0].until + 1
    assert rests[:3] == [FIRST_REST_S, 2 * FIRST_REST_S, 4 * FIRST_REST_S]
    assert rests[-1] == LONGEST_REST_S


def test_one_that_has_room_again_is_preferred_again() -> None:
    known = after_answers((), launch(A, B, refusals=1), 0.0)
    assert after_answers(known, launch(A, refusals=0), 1.0) == ()


def test_another_place_or_market_is_another_offering() -> None:
    known = after_answers((), launch(A, B, refusals=1), 0.0)
    elsewhere, on_demand = candidate("a", "zone-b"), candidate("a", market=Market.ON_DEMAND)
    assert in_order_of_hope((A, elsewhere, on_demand), known, 1.0) == (elsewhere, on_demand, A)


def test_what_nobody_has_tried_for_long_begins_anew() -> None:
    known = after_answers((), launch(A, B, refusals=1), 0.0)
    later = FIRST_REST_S + FORGOTTEN_AFTER_S + 1
    assert after_answers(known, launch(B, refusals=0), later) == ()


def test_an_attempt_without_an_answer_says_nothing() -> None:
    assert after_answers((), launch(A, B, refusals=0, successful=False), 0.0) == ()
