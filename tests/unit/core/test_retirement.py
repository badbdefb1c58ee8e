"""Whether a node may end itself, and why not."""

from __future__ import annotations

from typing import Any

import pytest

from scaler_plugin.core.model import NodeRole, NodeState, SlotState
from scaler_plugin.core.policy import ZeroMode
from scaler_plugin.core.retirement import ETCD_AWAY_GRACE_S, RetirementVerdict, Surroundings, may_retire

IDLE_S = 600.0


def verdict(
    make: Any, node: Any, pool: Any = None, zero: ZeroMode = ZeroMode.STANDBY, **around: Any
) -> RetirementVerdict:
    pool = pool or make.pool()
    policy = make.policy(pool, zero_mode=zero)
    return may_retire(node, policy, pool, Surroundings(**around), make.now)


def idle(make: Any, name: str = "i-1", seconds: float = IDLE_S, **rest: Any) -> Any:
    return make.node(name, since=make.now - seconds, **rest)


def test_idle_for_its_timeout_it_may_go(make: Any) -> None:
    assert verdict(make, idle(make)) == RetirementVerdict(True, "Idle for 600 s; idle_timeout of pool cpu is 600 s.")
    assert verdict(make, idle(make, seconds=599)).reason == "It has been idle for 599 s of 600 s."


@pytest.mark.parametrize(
    "slots", [(SlotState.BUSY,), (SlotState.IDLE, SlotState.BUSY), (SlotState.DOWN, SlotState.BUSY)]
)
def test_with_a_busy_slot_it_stays_even_when_it_drains(make: Any, slots: tuple[SlotState, ...]) -> None:
    for state in NodeState:
        node = make.node("i-1", "cpu", *slots, state=state, since=make.now - 10 * IDLE_S)
        assert not verdict(make, node).retire


def test_its_idle_time_counts_from_the_slot_that_became_idle_last(make: Any) -> None:
    node = make.node("i-1", "cpu", SlotState.IDLE, SlotState.IDLE, since=make.now - IDLE_S)
    later = node.slots[1].__class__(1, SlotState.IDLE, make.now - 5)
    assert not verdict(make, node.__class__(node.identity, node.state, 0.0, (node.slots[0], later))).retire


def test_with_idle_timeout_never_it_stays(make: Any) -> None:
    answer = verdict(make, idle(make, seconds=1e9), make.pool(idle_timeout_s=None))
    assert answer == RetirementVerdict(False, "Pool cpu has idle_timeout: never.")


def test_a_backlog_in_its_queues_keeps_it(make: Any) -> None:
    assert verdict(make, idle(make), backlog=3).reason == "3 tasks wait in its queues."
    assert verdict(make, idle(make), backlog=0).retire
    assert verdict(make, idle(make), backlog=None).retire


def test_a_draining_node_goes_whatever_waits_and_whatever_the_minimum_is(make: Any) -> None:
    node = idle(make, seconds=0, state=NodeState.DRAINING, reason="Asked to drain.")
    answer = verdict(make, node, make.pool(min_instances=1, idle_timeout_s=None), backlog=5, nodes=(node,))
    assert answer == RetirementVerdict(True, "Asked to drain.")


@pytest.mark.parametrize("state", [SlotState.DOWN, SlotState.STARTING])
def test_a_node_whose_agent_stays_away_goes_though_tasks_wait_and_the_minimum_is_not_reached(
    make: Any, state: SlotState
) -> None:
    node = make.node("i-1", "cpu", state, since=make.now - IDLE_S)
    pool = make.pool(min_instances=1, maximum=1)
    assert verdict(make, node, pool, backlog=5, nodes=(node,)).retire, "it would block its pool for ever"
    early = make.node("i-1", "cpu", state, since=make.now - IDLE_S + 1)
    assert not verdict(make, early, pool).retire


def test_the_pools_minimum_counts_only_other_nodes_of_the_pool_that_are_up(make: Any) -> None:
    node, pool = idle(make), make.pool(min_instances=1)
    others = (
        make.node("i-2", state=NodeState.RETIRING),
        make.node("i-3", state=NodeState.DRAINING),
        make.node("i-4", "gpu"),
        make.node("host", role=NodeRole.STANDBY),
    )
    answer = verdict(make, node, pool, nodes=(node, *others))
    assert not answer.retire
    assert "min_instances of pool cpu is 1" in answer.reason
    assert verdict(make, node, pool, nodes=(node, *others, make.node("i-5"))).retire


def test_under_keep_one_the_last_node_that_can_lead_stays(make: Any) -> None:
    node = idle(make)
    assert not verdict(make, node, zero=ZeroMode.KEEP_ONE, nodes=(node,)).retire
    assert verdict(make, node, zero=ZeroMode.KEEP_ONE, nodes=(node, make.node("i-2", "gpu"))).retire
    standby = make.node("host", role=NodeRole.STANDBY)
    assert verdict(make, node, zero=ZeroMode.KEEP_ONE, nodes=(node, standby)).retire


def test_without_etcd_it_waits_for_a_grace_more(make: Any) -> None:
    assert not verdict(make, idle(make, seconds=IDLE_S + ETCD_AWAY_GRACE_S - 1), etcd_away=True).retire
    assert verdict(make, idle(make, seconds=IDLE_S + ETCD_AWAY_GRACE_S), etcd_away=True).retire


def test_without_etcd_the_last_known_leader_stays(make: Any) -> None:
    assert not verdict(make, idle(make, seconds=1e6), etcd_away=True, was_leader=True).retire
    assert verdict(make, idle(make, seconds=1e6), etcd_away=False, was_leader=True).retire


def test_without_etcd_nodes_agree_by_their_ids_who_stays_for_the_minimum(make: Any) -> None:
    nodes = tuple(idle(make, f"i-{i}", seconds=1e6) for i in range(5))
    pool = make.pool(min_instances=2)
    stay = [n.instance_id for n in nodes if not verdict(make, n, pool, etcd_away=True, nodes=nodes).retire]
    assert stay == ["i-0", "i-1"]
    one = [
        n.instance_id for n in nodes if not verdict(make, n, zero=ZeroMode.KEEP_ONE, etcd_away=True, nodes=nodes).retire
    ]
    assert one == ["i-0"]


def test_without_etcd_a_node_that_never_saw_the_others_stays_where_a_minimum_counts(make: Any) -> None:
    node = idle(make, seconds=1e6)
    assert not verdict(make, node, make.pool(min_instances=1), etcd_away=True, nodes=()).retire


def test_a_protected_node_stays_while_it_is_idle_and_goes_when_it_must(make: Any) -> None:
    assert verdict(make, idle(make), protected="Somebody is logged in.").reason == "Somebody is logged in."
    leaving = idle(make, state=NodeState.INTERRUPTED, reason="EC2 takes it.")
    assert verdict(make, leaving, protected="Somebody is logged in.").retire
