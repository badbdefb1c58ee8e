"""How many instances are launched for which pool, and why; and for waiting tasks without a launch, why not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scaler_plugin.core.census import AGENT_RESTART_GRACE_S, UNRECORDED_GRACE_S
from scaler_plugin.core.model import InstanceId, InstanceState, NodeState, PoolName, QueueName, SlotState
from scaler_plugin.core.observation import Cooldown, Observation
from scaler_plugin.core.planning import MAX_INSTANCES_PER_LAUNCH, LaunchPlan, consume_supply, plan_launches
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy


def counts(plan: LaunchPlan) -> dict[str, int]:
    return {launch.pool: launch.count for launch in plan.launches}


def seen(make: Any, **what: Any) -> Observation:
    return Observation(**{"instances": (), "backlogs": {}, **what})


def test_an_instance_is_launched_for_each_waiting_task(make: Any) -> None:
    plan = plan_launches(make.policy(), seen(make, backlogs=make.backlogs(q=3)), make.now)
    assert counts(plan) == {"cpu": 3}
    assert plan.launches[0].reason == "3 waiting in q"
    assert plan.unserved == ()


def test_a_task_that_two_pools_could_run_causes_one_launch_in_the_preferred_one(make: Any) -> None:
    policy = make.policy(make.pool("cheap"), make.pool("dear"))
    assert counts(plan_launches(policy, seen(make, backlogs=make.backlogs(q=5)), make.now)) == {"cheap": 5}


def test_what_the_preferred_pool_has_no_room_for_goes_to_the_next(make: Any) -> None:
    policy = make.policy(make.pool("cheap", maximum=3), make.pool("dear", maximum=5))
    plan = plan_launches(policy, seen(make, backlogs=make.backlogs(q=10)), make.now)
    assert counts(plan) == {"cheap": 3, "dear": 5}
    (left,) = plan.unserved
    assert (left.queue, left.waiting) == ("q", 2)
    assert "Pool cheap is at its max_instances of 3." in left.reason
    assert "Pool dear is at its max_instances of 5." in left.reason


def test_a_pool_of_two_queues_serves_the_first_one_first(make: Any) -> None:
    policy = make.policy(make.pool("cpu", ("urgent", "slow"), maximum=3))
    plan = plan_launches(policy, seen(make, backlogs=make.backlogs(slow=2, urgent=2)), make.now)
    assert plan.launches[0].reason == "2 waiting in urgent, 1 waiting in slow"
    assert [(left.queue, left.waiting) for left in plan.unserved] == [("slow", 1)]


def test_slots_of_a_node_share_an_instance(make: Any) -> None:
    policy = make.policy(make.pool(slots_per_node=4))
    assert counts(plan_launches(policy, seen(make, backlogs=make.backlogs(q=9)), make.now)) == {"cpu": 3}


def test_idle_and_booting_slots_are_supply(make: Any) -> None:
    observation = seen(
        make,
        backlogs=make.backlogs(q=4),
        nodes=(make.node("i-1"), make.node("i-2", "cpu", SlotState.STARTING)),
        launches=(make.launch("l-1", count=2, started=("i-3", "i-4")),),
    )
    assert counts(plan_launches(make.policy(), observation, make.now)) == {}


def test_a_launch_whose_outcome_is_not_known_is_supply_for_its_whole_count_and_counts_against_the_maximum(
    make: Any,
) -> None:
    observation = seen(make, backlogs=make.backlogs(q=8), launches=(make.launch(count=5),))
    plan = plan_launches(make.policy(make.pool(maximum=7)), observation, make.now)
    assert counts(plan) == {"cpu": 2}
    assert plan.census[PoolName("cpu")].instances == 5


def test_an_instance_that_registered_before_the_answer_was_written_is_counted_once(make: Any) -> None:
    observation = seen(
        make,
        backlogs=make.backlogs(q=3),
        nodes=(make.node("i-1", launch="l-1"),),
        launches=(make.launch("l-1", count=2),),
        instances=(make.instance("i-1", launch="l-1"), make.instance("i-2", launch="l-1")),
    )
    plan = plan_launches(make.policy(), observation, make.now)
    assert plan.census[PoolName("cpu")].instances == 2
    assert counts(plan) == {"cpu": 1}


def test_nodes_that_drain_are_interrupted_or_retire_are_no_supply_but_count_against_the_maximum(make: Any) -> None:
    leaving = (NodeState.DRAINING, NodeState.INTERRUPTED, NodeState.RETIRING)
    nodes = tuple(make.node(f"i-{state.value}", state=state) for state in leaving)
    plan = plan_launches(
        make.policy(make.pool(maximum=4)), seen(make, backlogs=make.backlogs(q=3), nodes=nodes), make.now
    )
    assert counts(plan) == {"cpu": 1}


def test_a_stopped_agent_is_supply_only_while_it_may_come_back(make: Any) -> None:
    def launched(down_for_s: float) -> dict[str, int]:
        node = make.node("i-1", "cpu", SlotState.DOWN, since=make.now - down_for_s)
        return counts(plan_launches(make.policy(), seen(make, backlogs=make.backlogs(q=1), nodes=(node,)), make.now))

    assert launched(AGENT_RESTART_GRACE_S - 1) == {}
    assert launched(AGENT_RESTART_GRACE_S) == {"cpu": 1}


def test_an_instance_that_is_late_is_no_supply_but_counts_against_the_maximum(make: Any) -> None:
    late = make.launch(started=("i-1",), at=make.now - 601)
    plan = plan_launches(
        make.policy(make.pool(maximum=2)), seen(make, backlogs=make.backlogs(q=2), launches=(late,)), make.now
    )
    assert counts(plan) == {"cpu": 1}


def test_the_clusters_maximum_holds_over_all_pools_and_is_named(make: Any) -> None:
    policy = make.policy(make.pool("a", "qa"), make.pool("b", "qb"), maximum=5)
    plan = plan_launches(policy, seen(make, backlogs=make.backlogs(qa=4, qb=4)), make.now)
    assert counts(plan) == {"a": 4, "b": 1}
    assert plan.unserved[0].reason == "The cluster is at its max_instances of 5."


def test_a_pool_below_its_minimum_is_filled_without_any_task(make: Any) -> None:
    policy = make.policy(make.pool(min_instances=3))
    nodes = (make.node("i-1", "cpu", SlotState.BUSY), make.node("i-2", state=NodeState.RETIRING))
    plan = plan_launches(policy, seen(make, nodes=nodes), make.now)
    assert counts(plan) == {"cpu": 2}
    assert plan.launches[0].reason == "2 below min_instances"


def test_instances_for_the_minimum_serve_waiting_tasks_too(make: Any) -> None:
    policy = make.policy(make.pool(min_instances=3))
    assert counts(plan_launches(policy, seen(make, backlogs=make.backlogs(q=2)), make.now)) == {"cpu": 3}


def test_after_etcd_was_emptied_the_running_fleet_is_not_launched_a_second_time(make: Any) -> None:
    instances = tuple(make.instance(f"i-{i}", launch="gone") for i in range(4))
    since = {InstanceId(f"i-{i}"): make.now for i in range(4)}
    observation = seen(make, backlogs=make.backlogs(q=4), instances=instances, unrecorded_since=since)
    assert counts(plan_launches(make.policy(), observation, make.now)) == {}
    later = plan_launches(make.policy(make.pool(maximum=5)), observation, make.now + UNRECORDED_GRACE_S)
    assert counts(later) == {"cpu": 1}, "those that do not come back are no supply, but exist"


def test_an_instance_whose_node_was_leaving_when_its_record_went_exists_and_is_no_supply_nor_of_the_minimum(
    make: Any,
) -> None:
    stopping = make.instance("i-1")
    since = {InstanceId("i-1"): make.now}
    observation = seen(
        make,
        backlogs=make.backlogs(q=1),
        instances=(stopping,),
        unrecorded_since=since,
        left=frozenset({InstanceId("i-1")}),
    )
    assert counts(plan_launches(make.policy(), observation, make.now)) == {"cpu": 1}
    assert counts(plan_launches(make.policy(make.pool(maximum=1)), observation, make.now)) == {}
    quiet = replace(observation, backlogs=make.backlogs(q=0))
    assert counts(plan_launches(make.policy(make.pool(min_instances=1)), quiet, make.now)) == {"cpu": 1}


def test_instances_of_a_pool_that_was_removed_count_for_the_clusters_maximum(make: Any) -> None:
    observation = seen(make, backlogs=make.backlogs(q=5), nodes=(make.node("i-1", "old"), make.node("i-2", "old")))
    assert counts(plan_launches(make.policy(maximum=4), observation, make.now)) == {"cpu": 2}


def test_an_instance_whose_node_vanished_while_its_launch_still_waits_for_others_counts_against_the_maximum(
    make: Any,
) -> None:
    observation = seen(
        make,
        backlogs=make.backlogs(q=9),
        launches=(make.launch(count=2, started=("i-1", "i-2"), awaited=("i-2",)),),
        instances=(make.instance("i-1"), make.instance("i-2")),
    )
    plan = plan_launches(make.policy(make.pool(maximum=3)), observation, make.now)
    assert plan.census[PoolName("cpu")].instances == 2
    assert counts(plan) == {"cpu": 1}


def test_instances_that_end_count_for_nothing(make: Any) -> None:
    observation = seen(
        make,
        backlogs=make.backlogs(q=1),
        nodes=(make.node("i-1"),),
        launches=(make.launch(started=("i-2",)),),
        instances=(
            make.instance("i-1", state=InstanceState.SHUTTING_DOWN),
            make.instance("i-2", state=InstanceState.TERMINATED),
            make.instance("i-3", state=InstanceState.SHUTTING_DOWN),
        ),
    )
    assert counts(plan_launches(make.policy(make.pool(maximum=1)), observation, make.now)) == {"cpu": 1}


def test_without_a_picture_of_ec2_nothing_is_launched_and_the_reason_says_so(make: Any) -> None:
    plan = plan_launches(make.policy(), seen(make, backlogs=make.backlogs(q=1), instances=None), make.now)
    assert plan.launches == ()
    assert plan.unserved[0].reason.startswith("EC2 could not be read")


def test_without_an_answer_of_clearml_nothing_is_launched_not_even_for_the_minimum(make: Any) -> None:
    plan = plan_launches(make.policy(make.pool(min_instances=2)), seen(make, backlogs=None), make.now)
    assert plan.launches == ()


def test_a_pool_in_cooldown_is_passed_over_and_the_next_one_serves(make: Any) -> None:
    policy = make.policy(make.pool("spot"), make.pool("sure", maximum=1))
    cooldown = Cooldown(PoolName("spot"), 1, make.now + 5, "EC2 has no more of this type.")
    observation = seen(make, backlogs=make.backlogs(q=2), cooldowns=(cooldown,))
    plan = plan_launches(policy, observation, make.now)
    assert counts(plan) == {"sure": 1}
    assert plan.unserved[0].reason == (
        "Pool spot pauses after a failed launch: EC2 has no more of this type. Pool sure is at its max_instances of 1."
    )
    assert counts(plan_launches(policy, observation, make.now + 5)) == {"spot": 2}


def test_a_launch_is_bounded_and_the_rest_waits_for_the_preferred_pool_not_for_the_next_one(make: Any) -> None:
    policy = make.policy(make.pool("cheap", maximum=500), make.pool("dear", maximum=500))
    plan = plan_launches(policy, seen(make, backlogs=make.backlogs(q=150)), make.now)
    assert counts(plan) == {"cheap": MAX_INSTANCES_PER_LAUNCH}
    (left,) = plan.unserved
    assert left.waiting == 50
    assert left.reason == "Pool cheap launches 100 instances at a time; the rest follows."


def test_supply_of_a_pool_with_two_queues_is_left_to_the_queue_that_no_other_pool_serves() -> None:
    a, b = PoolName("a"), PoolName("b")
    shared, own = QueueName("shared"), QueueName("own")
    demand = {shared: 1, own: 1}
    consume_supply(demand, {a: 1, b: 1}, {a: (shared, own), b: (shared,)})
    assert demand == {shared: 0, own: 0}


QUEUES = tuple(f"q{i}" for i in range(4))


def drawn(make: Any, draw: Any) -> tuple[ClusterPolicy, Observation]:
    """Any cluster of up to four pools on up to four queues, with nodes, launches and instances in any state."""
    pools = []
    for index in range(draw(st.integers(1, 4))):
        maximum = draw(st.integers(1, 30))
        pools.append(
            make.pool(
                f"p{index}",
                tuple(draw(st.lists(st.sampled_from(QUEUES), min_size=1, max_size=3, unique=True))),
                maximum,
                min_instances=draw(st.integers(0, maximum)),
                slots_per_node=draw(st.integers(1, 4)),
            )
        )
    pool_name = st.sampled_from([*(pool.name for pool in pools), "removed"])
    nodes = [
        make.node(f"n-{i}", draw(pool_name), slot, state=draw(st.sampled_from(NodeState)))
        for i, slot in enumerate(draw(st.lists(st.sampled_from(SlotState), max_size=10)))
    ]
    launches = []
    for i, count in enumerate(draw(st.lists(st.integers(1, 8), max_size=3))):
        started = [f"l{i}-{j}" for j in range(draw(st.integers(1, count)))] if draw(st.booleans()) else None
        launches.append(
            make.launch(f"l-{i}", draw(pool_name), count, started=started, slots_per_node=draw(st.integers(1, 4)))
        )
    instances = [make.instance(f"u-{i}", draw(pool_name)) for i in range(draw(st.integers(0, 4)))]
    waiting = {queue: draw(st.integers(0, 300)) for queue in QUEUES}
    return make.policy(*pools, maximum=draw(st.integers(1, 200))), Observation(
        tuple(nodes), tuple(launches), make.backlogs(**waiting), tuple(instances)
    )


def room(policy: ClusterPolicy, plan: LaunchPlan, pool: PoolPolicy) -> int:
    """How many more instances of the pool could be launched after this plan."""
    own = sum(launch.count for launch in plan.launches if launch.pool == pool.name)
    everything = sum(count.instances for count in plan.census.values()) + sum(one.count for one in plan.launches)
    return min(pool.max_instances - plan.census[pool.name].instances - own, policy.max_instances - everything)


@given(data=st.data())
def test_no_plan_exceeds_any_maximum(make: Any, data: st.DataObject) -> None:
    policy, observation = drawn(make, data.draw)
    plan = plan_launches(policy, observation, make.now)
    for launch in plan.launches:
        pool = policy.pool(launch.pool)
        assert pool is not None
        assert 0 < launch.count <= MAX_INSTANCES_PER_LAUNCH
        assert plan.census[pool.name].instances + launch.count <= pool.max_instances
    launched = sum(launch.count for launch in plan.launches)
    if launched:
        assert launched + sum(count.instances for count in plan.census.values()) <= policy.max_instances


@given(data=st.data())
def test_demand_is_met_by_supply_and_launches_unless_a_maximum_stops_it_and_then_the_reason_is_given(
    make: Any, data: st.DataObject
) -> None:
    policy, observation = drawn(make, data.draw)
    plan = plan_launches(policy, observation, make.now)
    served = {queue for pool in policy.pools for queue in pool.queues}
    waiting = sum(observation.waiting(QueueName(queue)) for queue in served)
    slots = {pool.name: pool.slots_per_node for pool in policy.pools}
    capacity = sum(plan.census[pool.name].supply_slots for pool in policy.pools) + sum(
        launch.count * slots[launch.pool] for launch in plan.launches
    )
    left = {entry.queue: entry for entry in plan.unserved}
    assert capacity + sum(entry.waiting for entry in left.values()) >= waiting
    for queue, entry in left.items():
        assert entry.reason, f"{entry.waiting} tasks of {queue} wait without a reason"
        for pool in policy.pools:
            if queue in pool.queues and all(launch.count < MAX_INSTANCES_PER_LAUNCH for launch in plan.launches):
                assert room(policy, plan, pool) <= 0


@given(data=st.data())
def test_a_task_never_causes_more_than_its_share_of_an_instance(make: Any, data: st.DataObject) -> None:
    policy, observation = drawn(make, data.draw)
    plan = plan_launches(policy, observation, make.now)
    for launch in plan.launches:
        pool = policy.pool(launch.pool)
        assert pool is not None
        missing = pool.min_instances - plan.census[pool.name].serving_instances
        demand = sum(observation.waiting(queue) for queue in pool.queues)
        assert launch.count <= max(missing, -(-demand // pool.slots_per_node))
