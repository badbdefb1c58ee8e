"""The election on a virtual clock: what a candidate knows, when it knows it, and what it leaves behind."""

from __future__ import annotations

import pytest

from scaler_plugin.coordination.election import STALLED_AFTER_TTLS, Election, LeaderRecord, read_leader
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import Cut, MemoryStore
from scaler_plugin.coordination.store import CreatedAt, Delete, Put
from scaler_plugin.errors import ConfigError, NotLeader, StoreUnavailable
from scaler_plugin.simulation.clock import VirtualClock

KEYS = Keys("/scaler", "c")
TTL_S = 10
MARGIN_S = 1.0


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.etcd = MemoryStore(self.clock)
        self.client = self.etcd.client

    def candidate(self, name: str) -> Election:
        return Election(self.client(name), KEYS, name, self.clock, TTL_S, MARGIN_S)

    def value(self, key: str) -> str | None:
        entry = self.client("observer").get(key)
        return entry.value if entry else None


@pytest.fixture
def world() -> World:
    return World()


def put(value: str) -> list[Put]:
    return [Put(f"{KEYS.root}x", value)]


def test_the_first_candidate_leads_and_the_second_does_not(world: World) -> None:
    first, second = world.candidate("a"), world.candidate("b")
    term = first.step()
    assert term is not None
    assert second.step() is None
    assert first.step() == first.leadership == term
    assert read_leader(world.client("b"), KEYS) == LeaderRecord("a", term.term, world.clock.now())


def test_nobody_is_read_as_leader_before_the_first_term(world: World) -> None:
    assert read_leader(world.client("a"), KEYS) is None


def test_a_candidate_that_loses_keeps_no_lease(world: World) -> None:
    world.candidate("a").step()
    loser = world.candidate("b")
    for _ in range(3):
        loser.step()
    assert len(world.etcd.leases) == 1


def test_two_candidates_that_both_saw_no_leader_end_with_one_leader_and_one_lease(world: World) -> None:
    late = world.candidate("late")
    real = world.client("late").grant_lease

    def overtaken(ttl_s: int) -> object:  # between its look and its campaign another one wins
        world.candidate("fast").step()
        return real(ttl_s)

    world.client("late").grant_lease = overtaken  # type: ignore[method-assign, assignment]
    assert late.step() is None
    assert late.leadership is None
    assert len(world.etcd.leases) == 1


def test_terms_grow(world: World) -> None:
    first, second = world.candidate("a"), world.candidate("b")
    before = first.step()
    first.resign()
    after = second.step()
    assert before is not None
    assert after is not None
    assert after.term > before.term


@pytest.mark.parametrize(("elapsed", "leads"), [(8.999, True), (9.0, False), (9.5, False)])
def test_without_renewal_leadership_ends_at_ttl_minus_margin(world: World, elapsed: float, leads: bool) -> None:
    election = world.candidate("a")
    election.step()
    world.clock.advance(elapsed)
    assert (election.leadership is not None) is leads


def test_the_deadline_counts_from_when_the_renewal_was_sent_not_answered(world: World) -> None:
    election = world.candidate("a")
    election.step()
    real = world.client("a").keep_alive

    def slow(lease: int) -> None:
        real(lease)  # type: ignore[arg-type]
        world.clock.advance(2.0)  # the answer takes two seconds

    world.client("a").keep_alive = slow  # type: ignore[method-assign, assignment]
    election.renew()
    world.clock.advance(TTL_S - MARGIN_S - 2.0 - 0.5)
    assert election.leadership is not None
    world.clock.advance(0.5)
    assert election.leadership is None


def test_renewals_keep_the_same_term(world: World) -> None:
    election = world.candidate("a")
    term = election.step()
    for _ in range(100):
        world.clock.advance(TTL_S / 3)
        election.renew()
        assert election.step() == term
    assert election.leadership == term


def test_a_renewal_that_fails_once_costs_nothing(world: World) -> None:
    election = world.candidate("a")
    election.step()
    world.clock.advance(3.3)
    world.client("a").fail_next(Cut.BEFORE_EFFECT)
    with pytest.raises(StoreUnavailable):
        election.renew()
    world.clock.advance(3.3)
    election.renew()
    world.clock.advance(8.9)
    assert election.leadership is not None


def test_a_leader_cut_off_from_etcd_stops_before_a_successor_can_begin(world: World) -> None:
    old, new = world.candidate("old"), world.candidate("new")
    old.step()
    world.client("old").partition()
    both = 0
    for _ in range(200):
        world.clock.advance(0.1)
        world.etcd.tick()
        new.step()
        both += old.leadership is not None and new.leadership is not None
    assert new.leadership is not None
    assert old.leadership is None
    assert both == 0


def test_a_paused_leader_finds_out_before_its_next_act(world: World) -> None:
    old, new = world.candidate("old"), world.candidate("new")
    old.step()
    world.clock.advance(3 * TTL_S)  # the process stands still; nothing of it runs
    new.step()
    assert old.leadership is None
    with pytest.raises(NotLeader):
        old.fenced(put("stale"))
    assert world.value(f"{KEYS.root}x") is None


def test_a_write_that_left_in_time_and_arrives_after_the_term_is_refused(world: World) -> None:
    old, new = world.candidate("old"), world.candidate("new")
    term = old.step()
    assert term is not None
    old.resign()
    new.step()
    answer = world.client("old").transact(list(term.fence), put("stale"))
    assert not answer.succeeded


def test_a_leader_that_has_not_noticed_an_emptied_etcd_is_refused_though_the_new_term_has_its_number(
    world: World,
) -> None:
    old, new = world.candidate("old"), world.candidate("new")
    before = old.step()
    world.etcd.wipe()
    after = new.step()
    assert before is not None
    assert after is not None
    assert before.term == after.term, "both etcds were as young: that is the danger"
    assert old.leadership is not None, "its deadline has not come"
    with pytest.raises(NotLeader):
        old.fenced(put("stale"))
    assert world.value(f"{KEYS.root}x") is None
    assert new.fenced(put("fresh"))


def test_a_leader_whose_key_was_taken_steps_down_at_its_next_write(world: World) -> None:
    election = world.candidate("a")
    election.step()
    world.client("operator").transact([], [Delete(KEYS.leader)])
    with pytest.raises(NotLeader):
        election.fenced(put("stale"))
    assert election.leadership is None
    assert world.value(f"{KEYS.root}x") is None


def test_a_failed_comparison_of_the_callers_own_is_not_the_end_of_the_term(world: World) -> None:
    election = world.candidate("a")
    term = election.step()
    assert election.fenced(put("1"), compare=[CreatedAt(f"{KEYS.root}x", 0)])
    assert not election.fenced(put("2"), compare=[CreatedAt(f"{KEYS.root}x", 0)])
    assert election.leadership == term
    assert world.value(f"{KEYS.root}x") == "1"


def test_a_failed_comparison_after_the_term_is_the_end_of_the_term(world: World) -> None:
    election = world.candidate("a")
    election.step()
    world.client("operator").transact([], [Delete(KEYS.leader), *put("taken")])
    with pytest.raises(NotLeader):
        election.fenced(put("2"), compare=[CreatedAt(f"{KEYS.root}x", 0)])


def test_one_who_never_led_cannot_write(world: World) -> None:
    world.candidate("a").step()
    loser = world.candidate("b")
    loser.step()
    with pytest.raises(NotLeader):
        loser.fenced(put("no"))


@pytest.mark.parametrize("call", ["grant_lease", "transact", "get"])
@pytest.mark.parametrize("cut", list(Cut))
def test_a_campaign_whose_answer_is_lost_ends_in_one_term_and_one_lease(world: World, call: str, cut: Cut) -> None:
    election = world.candidate("a")
    client = world.client("a")
    real = getattr(client, call)

    def lossy(*args: object) -> object:
        if call == "get" and not world.etcd.leases:  # the first look succeeds, the one after the campaign is lost
            return real(*args)
        setattr(client, call, real)
        client.fail_next(cut)
        return real(*args)

    setattr(client, call, lossy)
    with pytest.raises(StoreUnavailable):
        election.step()
    assert election.step() is not None
    assert election.fenced(put("mine"))
    world.clock.advance(5)
    election.renew()
    world.clock.advance(5.1)
    election.renew()
    assert election.leadership is not None
    assert len(world.etcd.leases) == 1


def test_a_campaign_whose_answer_is_lost_is_found_even_after_its_deadline(world: World) -> None:
    election = world.candidate("a")
    client = world.client("a")
    real = client.transact

    def lossy(*args: object) -> object:
        client.fail_next(Cut.AFTER_EFFECT)
        return real(*args)  # type: ignore[arg-type]

    client.transact = lossy  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailable):
        election.step()
    world.clock.advance(9.5)  # past the deadline, before the lease ends
    term = election.step()
    assert term is not None
    assert term == election.leadership


def test_resigning_frees_the_key_and_the_lease_at_once(world: World) -> None:
    old, new = world.candidate("old"), world.candidate("new")
    woken: list[bool] = []
    new.watch(lambda: woken.append(True))
    old.step()
    woken.clear()
    old.resign()
    assert woken
    assert old.leadership is None
    assert world.etcd.leases == ()
    assert new.step() is not None


def test_resigning_without_etcd_ends_the_term_here_and_the_lease_by_itself(world: World) -> None:
    old, new = world.candidate("old"), world.candidate("new")
    old.step()
    world.client("old").partition()
    old.resign()
    assert old.leadership is None
    world.client("old").heal()
    world.clock.advance(6)
    old.renew()  # the renewing thread is still there, and must not keep the key alive
    world.clock.advance(4)
    assert new.step() is not None


def test_resigning_twice_or_without_a_term_is_harmless(world: World) -> None:
    election = world.candidate("a")
    election.resign()
    election.step()
    election.resign()
    election.resign()
    assert world.etcd.leases == ()


def test_a_leader_that_renews_but_takes_no_step_any_more_loses_the_term(world: World) -> None:
    hung, other = world.candidate("hung"), world.candidate("other")
    hung.step()
    for _ in range(3 * STALLED_AFTER_TTLS + 1):
        world.clock.advance(TTL_S / 3 + 0.01)
        hung.renew()
    assert hung.leadership is None
    assert other.step() is not None


def test_a_jump_of_the_wall_clock_changes_nothing(world: World) -> None:
    election = world.candidate("a")
    term = election.step()
    for jump in (86_400.0, -2 * 86_400.0):
        world.clock.jump_wall(jump)
        assert election.leadership == term
        assert election.step() == term
    world.clock.advance(TTL_S - MARGIN_S)
    world.clock.jump_wall(-TTL_S)
    assert election.leadership is None


def test_an_etcd_set_up_anew_ends_the_term_and_the_next_step_begins_another(world: World) -> None:
    election = world.candidate("a")
    before = election.step()
    world.client("b").transact([], put("something, so that revisions differ"))
    world.etcd.wipe()
    election.renew()
    assert election.leadership is None
    after = election.step()
    assert before is not None
    assert after is not None
    assert world.value(KEYS.leader) is not None


@pytest.mark.parametrize(("ttl_s", "margin_s"), [(1, 0.1), (10, 0.0), (10, -1.0), (10, 7.0), (3, 2.0)])
def test_timing_that_cannot_work_is_refused(world: World, ttl_s: int, margin_s: float) -> None:
    with pytest.raises(ConfigError):
        Election(world.client("a"), KEYS, "a", world.clock, ttl_s, margin_s)


def test_a_watching_candidate_asks_etcd_once_in_a_ttl_while_another_one_leads(world: World) -> None:
    leader, waiting = world.candidate("leader"), world.candidate("waiting")
    watch = waiting.watch(lambda: None)
    leader.step()
    waiting.step()
    world.client("waiting").partition()  # a call would raise
    world.clock.advance(TTL_S - 1)
    leader.renew()
    assert waiting.step() is None
    world.clock.advance(1)
    with pytest.raises(StoreUnavailable):
        waiting.step()
    world.client("waiting").heal()
    waiting.step()
    watch.cancel()
    watch.cancel()
    world.client("waiting").partition()
    with pytest.raises(StoreUnavailable):
        waiting.step()


def test_a_candidate_whose_watch_is_deaf_still_follows_within_a_ttl(world: World) -> None:
    old, new = world.candidate("old"), world.candidate("new")
    new.watch(lambda: None)
    old.step()
    assert new.step() is None
    world.client("new").deafen()
    old.resign()
    assert new.step() is None
    world.clock.advance(TTL_S)
    assert new.step() is not None


def test_a_candidate_that_was_woken_campaigns_in_its_next_step(world: World) -> None:
    old, new = world.candidate("old"), world.candidate("new")
    new.watch(lambda: None)
    old.step()
    assert new.step() is None
    old.resign()
    assert new.step() is not None


@pytest.mark.parametrize("text", ["", "nonsense", '{"candidate":"ghost","since":1.0}'])
def test_a_leaders_key_under_no_lease_is_cleared_away_and_a_candidate_leads(world: World, text: str) -> None:
    world.client("somebody").transact([], [Put(KEYS.leader, text)])
    held = world.candidate("a").step()
    assert held is not None
    assert read_leader(world.client("b"), KEYS) == LeaderRecord("a", held.term, world.clock.now())


def test_a_leader_whose_key_was_overwritten_writes_nothing_more_and_a_new_term_begins(world: World) -> None:
    election = world.candidate("a")
    old = election.step()
    assert old is not None
    world.client("somebody").transact([], [Put(KEYS.leader, "nonsense")])
    with pytest.raises(NotLeader):
        election.fenced(put("stale"))
    new = election.step()
    assert new is not None
    assert new.term > old.term
    assert election.fenced(put("new"))


def test_a_leaders_key_that_nobody_can_read_under_its_own_lease_ends_the_term_and_a_new_one_begins(
    world: World,
) -> None:
    election = world.candidate("a")
    old = election.step()
    entry = world.client("x").get(KEYS.leader)
    assert old is not None
    assert entry is not None
    world.client("somebody").transact([], [Put(KEYS.leader, "nonsense", entry.lease)])
    assert election.step() is None
    new = election.step()
    assert new is not None
    assert new.term > old.term
    assert len(world.etcd.leases) == 1
