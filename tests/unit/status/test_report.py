"""What the report says of made-up clusters."""

from __future__ import annotations

import pytest

from scaler_plugin.coordination.store import Entry
from scaler_plugin.core.model import InstanceId, LaunchId, Node, NodeIdentity, NodeRole, NodeState, PoolName, SlotState
from scaler_plugin.core.observation import Cooldown
from scaler_plugin.status.make_report import make_report
from scaler_plugin.status.reading import sort_records
from scaler_plugin.status.report import Doing, PoolStatus, StatusReport

from .made_up import CPU, GPU, KEYS, LEADER, NOW, entries, launch, node, report, slot, view


def pool(made: StatusReport, name: PoolName) -> PoolStatus:
    return next(pool for pool in made.pools if pool.name == name)


def test_the_leader_is_named_with_its_term_and_for_how_long_it_has_led() -> None:
    leader = report(view(), since=NOW - 90).leader
    assert leader is not None
    assert (leader.node, leader.term, leader.for_s) == (LEADER, 7, 90.0)


def test_a_view_is_fresh_only_while_its_own_terms_leader_leads() -> None:
    def fresh(made: StatusReport) -> bool:
        assert made.view is not None
        return made.view.fresh

    assert fresh(report(view(term=7)))
    assert not fresh(report(view(term=6)))
    assert not fresh(report(view(term=7), leader=None))


def test_an_old_view_still_gives_its_figures_but_no_reason_why_nothing_is_launched_now() -> None:
    queue = report(view(term=6, waiting=3, oldest_s=60, unserved="full")).queues[0]
    assert (queue.waiting, queue.oldest_wait_s, queue.unserved) == (3, 60.0, "")


def test_a_backlog_that_the_leader_could_not_read_is_unknown_and_not_zero() -> None:
    made = report(view(backlog_known=False))
    assert made.queues[0].waiting is None
    assert pool(made, GPU).waiting is None


def test_a_queue_of_two_pools_is_backlog_of_both() -> None:
    made = report(view(waiting=5))
    assert [pool.waiting for pool in made.pools] == [5, 5]
    assert made.queues[0].pools == (GPU, CPU)


def test_each_node_is_counted_once_by_what_it_does() -> None:
    made = report(
        view(),
        node(1, SlotState.BUSY),
        node(2, SlotState.IDLE),
        node(3, SlotState.STARTING),
        node(4, SlotState.DOWN),
        node(5, SlotState.BUSY, node_state=NodeState.DRAINING),
        node(6, SlotState.IDLE, node_state=NodeState.RETIRING),
        node(7, SlotState.BUSY, node_state=NodeState.INTERRUPTED),
    )
    cpu = pool(made, CPU)
    assert (cpu.busy, cpu.idle, cpu.booting, cpu.down, cpu.retiring) == (1, 1, 1, 1, 3)
    assert cpu.instances == made.instances == 7
    assert cpu.max_instances == 40


def test_a_node_is_busy_while_one_of_its_slots_is_and_idle_only_when_all_are() -> None:
    busy = node(1, slots=(slot(SlotState.IDLE, 900, 0), slot(SlotState.BUSY, 30, 1), slot(SlotState.BUSY, 70, 2)))
    idle = node(2, slots=(slot(SlotState.IDLE, 900, 0), slot(SlotState.IDLE, 40, 1)))
    by_id = {made.instance_id: made for made in report(view(), busy, idle).nodes}
    first, second = by_id[busy.instance_id], by_id[idle.instance_id]
    assert (first.doing, first.for_s, first.idle_for_s) == (Doing.BUSY, 70.0, None)
    assert (second.doing, second.for_s, second.idle_for_s) == (Doing.IDLE, 40.0, 40.0)
    cpu = pool(report(view(), busy, idle), CPU)
    assert (cpu.slots, cpu.busy_slots, cpu.longest_idle_s) == (5, 2, 40.0)


def test_a_launch_counts_as_booting_until_its_nodes_have_registered() -> None:
    flying = launch("l-1", count=3)
    assert pool(report(view(), flying), GPU).booting == 3
    started = launch("l-1", count=3, instances=("i-1", "i-2", "i-0aa00000000000005"))
    made = report(view(), started, node(5, SlotState.IDLE, pool=GPU, launch=LaunchId("l-1")))
    assert (pool(made, GPU).booting, pool(made, GPU).idle, pool(made, GPU).instances) == (2, 1, 3)
    assert made.launches[0].awaited == ("i-1", "i-2")


def test_a_node_that_registers_before_the_launchs_outcome_is_written_is_not_counted_twice() -> None:
    made = report(view(), launch("l-1", count=2), node(5, pool=GPU, launch=LaunchId("l-1")))
    assert pool(made, GPU).instances == 2


def test_a_launch_says_whether_ec2_has_answered_and_what_it_refused() -> None:
    asking, booting, refused = report(
        view(), launch("a"), launch("b", instances=("i-1", "i-2")), launch("c", error="no capacity")
    ).launches
    assert (asking.phase, booting.phase) == ("asking EC2", "booting")
    assert (refused.last_error, refused.candidate, refused.candidates) == ("no capacity", 2, 2)


def test_instances_that_only_ec2_knows_are_counted_while_the_view_is_fresh() -> None:
    assert pool(report(view(cpu_instances=3), node(1)), CPU).instances == 3
    assert pool(report(view(term=6, cpu_instances=3), node(1)), CPU).instances == 1


def test_nodes_stand_by_pool_then_by_what_may_need_a_person_then_by_how_long() -> None:
    standby = Node(NodeIdentity("demo", InstanceId("standby-a"), NodeRole.STANDBY), NodeState.UP, NOW - 5)
    made = report(
        view(),
        standby,
        node(1, SlotState.BUSY, 10),
        node(2, SlotState.BUSY, 90),
        node(3, SlotState.IDLE),
        node(4, SlotState.DOWN),
        node(5, SlotState.IDLE, pool=GPU),
    )
    assert [int(n.instance_id[-1], 16) for n in made.nodes[:-1]] == [5, 4, 3, 2, 1]
    assert made.nodes[-1].doing is Doing.STANDBY


def test_standbys_are_nodes_of_no_pool() -> None:
    standby = Node(NodeIdentity("demo", InstanceId("standby-a"), NodeRole.STANDBY), NodeState.UP, NOW - 5)
    assert {p.name for p in report(view(), standby).pools} == {GPU, CPU}


def test_a_pool_that_left_the_configuration_is_shown_while_it_has_nodes() -> None:
    gone = pool(report(view(), node(1, pool=PoolName("old"))), PoolName("old"))
    assert (gone.idle, gone.max_instances, gone.queues) == (1, None, ())


def test_a_pause_after_failed_launches_shows_how_long_it_still_lasts_and_only_until_then() -> None:
    assert pool(report(view(), Cooldown(GPU, 2, NOW + 42, "x")), GPU).pause_left_s == 42.0
    assert pool(report(view(), Cooldown(GPU, 2, NOW - 1, "x")), GPU).pause_left_s is None


def test_before_the_first_leader_pools_and_maxima_come_from_the_configuration() -> None:
    made = report(leader=None)
    assert [(p.name, p.max_instances, p.waiting) for p in made.pools] == [("cpu", 4, None)]
    assert [(q.name, q.waiting) for q in made.queues] == [("default", None)]
    assert made.max_instances == 4


def test_a_clock_behind_the_others_gives_no_negative_durations() -> None:
    made = report(view(waiting=1, oldest_s=10), node(1), now=NOW - 100_000)
    assert made.leader is not None
    assert made.nodes[0].age_s == made.nodes[0].for_s == made.leader.for_s == made.queues[0].oldest_wait_s == 0.0


@pytest.mark.parametrize(
    "key", [KEYS.node(InstanceId("i-bad")), KEYS.view, KEYS.leader, KEYS.launches + "x", KEYS.config]
)
def test_a_record_that_cannot_be_read_is_named_and_the_rest_is_shown(key: str) -> None:
    found = [entry for entry in entries(node(1)) if entry.key != key]
    made = make_report(sort_records([*found, Entry(key, "{broken", 9, 9)], KEYS), NOW)
    assert len(made.nodes) == 1
    assert any(key in problem.what for problem in made.problems)
