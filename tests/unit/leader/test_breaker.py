"""A pool whose instances don't start pauses, tries one, and goes on as soon as one starts; whoever leads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaler_plugin.coordination.events import Event, record
from scaler_plugin.core.breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, TRIP_AFTER
from scaler_plugin.core.model import NodeState, PoolName, QueueName, Slot, SlotState
from scaler_plugin.core.policy import PoolPolicy

from .cluster import KEYS, POLL_S, Cluster, Died, Seat

POOL = "pool cpu"


def fail_in_a_row(cluster: Cluster, seat: Seat, number: int = TRIP_AFTER) -> None:
    """Until the pool pauses; each pass that sees a failure launches the next one."""
    failed = 0
    while failed < number:
        cluster.passes(seat, POLL_S)
        for instance in cluster.living:
            cluster.fleet.guest_shut_down(instance.instance_id)
            failed += 1
        cluster.passes(seat, 12)


def test_three_instances_in_a_row_that_end_before_they_register_pause_the_pool(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    fail_in_a_row(cluster, seat)
    assert cluster.living == []
    cluster.passes(seat, FIRST_PAUSE_S - 60)
    assert cluster.living == []
    assert "3 instances in a row did not start" in cluster.problems()[POOL]
    assert len(cluster.events("start_failed")) == TRIP_AFTER
    (paused,) = cluster.events("pool_paused")
    assert "5 min" in paused.sentence
    (queue,) = cluster.view.queues
    assert "did not start" in queue.unserved


def test_two_failures_pause_nothing(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    fail_in_a_row(cluster, seat, TRIP_AFTER - 1)
    cluster.passes(seat, POLL_S)
    assert len(cluster.living) == 1
    assert POOL not in cluster.problems()


def test_instances_that_never_register_count_and_their_console_output_stands_in_the_problem(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(TRIP_AFTER)
    cluster.passes(seat, POLL_S)
    for instance in cluster.living:
        cluster.fleet.write_console(instance.instance_id, "cloud-init: no such file: scaler-sidecar")
    cluster.passes(seat, 640)
    (problem,) = [p for p in cluster.view.problems if p.about == POOL]
    assert "did not register" in problem.what
    assert "no such file" in problem.detail
    assert len(cluster.events("start_failed")) == TRIP_AFTER, "told twice"
    assert cluster.living == [], "late instances were launched for once more"


def test_instances_that_ec2_lists_no_more_before_they_register_count_as_well(cluster: Cluster) -> None:
    seat = cluster.seat()
    listed, lost = cluster.fleet.instances, set[str]()
    cluster.fleet.instances = lambda: tuple(i for i in listed() if i.instance_id not in lost)  # type: ignore[method-assign]
    cluster.enqueue(1)
    for _ in range(TRIP_AFTER):
        cluster.passes(seat, 20)
        lost.update(instance.instance_id for instance in listed())
        cluster.passes(seat, 600)
    assert len(lost) == TRIP_AFTER
    assert len(cluster.events("pool_paused")) == 1
    assert "is not listed by EC2" in cluster.problems()[POOL]
    cluster.passes(seat, FIRST_PAUSE_S - 60)
    assert cluster.fleet.launched == TRIP_AFTER


def test_the_reason_that_an_instance_gave_at_its_health_gate_is_the_one_that_is_shown(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(TRIP_AFTER)
    cluster.passes(seat, POLL_S)
    for instance in cluster.living:
        event = Event(
            cluster.clock.now(), "start_failed", instance.instance_id, "No GPU answers.", "nvidia-smi: no devices"
        )
        record(cluster.etcd.client(instance.instance_id), KEYS, event)
        cluster.fleet.guest_shut_down(instance.instance_id)
    cluster.passes(seat, 12)
    (problem,) = [p for p in cluster.view.problems if p.about == POOL]
    assert "No GPU answers." in problem.what
    assert problem.detail == "nvidia-smi: no devices"
    assert len(cluster.events("start_failed")) == TRIP_AFTER, "told twice"


def test_after_the_pause_a_single_instance_is_tried_and_its_failure_doubles_the_pause(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(5)
    fail_in_a_row(cluster, seat)
    cluster.passes(seat, FIRST_PAUSE_S)
    (trial,) = cluster.living
    cluster.passes(seat, 30)
    assert [i.instance_id for i in cluster.living] == [trial.instance_id], "more than one was tried"
    cluster.fleet.guest_shut_down(trial.instance_id)
    cluster.passes(seat, 2 * FIRST_PAUSE_S - 30)
    assert cluster.living == []
    cluster.passes(seat, 60)
    assert len(cluster.living) == 1


def test_pauses_grow_to_an_hour_and_no_longer(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    for _ in range(TRIP_AFTER + 7):
        cluster.passes(seat, LONGEST_PAUSE_S + 60)
        for instance in cluster.living:
            cluster.fleet.guest_shut_down(instance.instance_id)
        cluster.passes(seat, 12)
    assert cluster.events("pool_paused")[-1].sentence.count("60 min") == 1


def test_one_instance_that_registers_ends_it_and_the_rest_follows(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(4)
    fail_in_a_row(cluster, seat)
    cluster.passes(seat, FIRST_PAUSE_S)
    (trial,) = cluster.living
    cluster.register(trial.instance_id)
    cluster.passes(seat, 3 * POLL_S)
    assert len(cluster.living) == 4
    assert POOL not in cluster.problems()
    assert len(cluster.events("pool_resumed")) == 1


def test_successes_in_between_keep_failures_from_adding_up(cluster: Cluster) -> None:
    seat = cluster.seat()
    for _ in range(TRIP_AFTER):
        cluster.enqueue(2)
        cluster.passes(seat, POLL_S)
        fresh = [i for i in cluster.living if i.instance_id not in cluster.registries]
        cluster.fleet.guest_shut_down(fresh[0].instance_id)
        cluster.passes(seat, 12)
        for instance in cluster.living:
            cluster.register(instance.instance_id)
        cluster.passes(seat, POLL_S)
    assert cluster.events("pool_paused") == []


def test_a_new_leader_keeps_the_pause(cluster: Cluster) -> None:
    first, second = cluster.seat(), cluster.seat()
    cluster.enqueue(1)
    fail_in_a_row(cluster, first)
    cluster.after_ttl()
    cluster.passes(second, 60)
    assert cluster.living == []
    assert "did not start" in cluster.problems()[POOL]


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_leader_that_dies_while_it_counts_has_a_successor_that_counts_each_failure_once(
    cluster: Cluster, place: str
) -> None:
    first, second = cluster.seat(), cluster.seat()
    cluster.enqueue(TRIP_AFTER - 1)
    cluster.passes(first, POLL_S)
    for instance in cluster.living:
        cluster.fleet.guest_shut_down(instance.instance_id)

    def die() -> None:
        raise Died

    # It dies when it asks for the console output: all are counted, and the launch record still awaits them.
    getattr(first.fleet, place)["console_output"] = die
    with pytest.raises(Died):
        cluster.passes(first, 20)
    cluster.after_ttl()
    cluster.passes(second, 12)
    assert cluster.events("pool_paused") == []
    assert len(cluster.living) == TRIP_AFTER - 1, "two failures are no pause"


def test_a_new_configuration_makes_the_pool_try_at_once(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(2)
    fail_in_a_row(cluster, seat)
    cluster.passes(seat, 30)
    assert cluster.living == []
    cluster.settings = replace(cluster.settings, revision=2)
    cluster.passes(seat, 2 * POLL_S)
    assert len(cluster.living) == 1


def test_the_pause_of_one_pool_is_none_for_another(cluster: Cluster) -> None:
    queue = QueueName("cpu-tasks")
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (queue,), 10), PoolPolicy(PoolName("spare"), (queue,), 10))
    seat = cluster.seat()
    cluster.enqueue(1)
    fail_in_a_row(cluster, seat)
    cluster.passes(seat, 2 * POLL_S)
    assert [instance.pool for instance in cluster.living] == ["spare"]


def useless(cluster: Cluster, seat: Seat, number: int) -> None:
    """So many instances register, are found unfit and end, one after the other."""
    for _ in range(number):
        cluster.passes(seat, 2 * POLL_S)
        (instance,) = [i for i in cluster.living if i.instance_id not in {n.instance_id for n in cluster.nodes}]
        registry = cluster.register(instance.instance_id, SlotState.STARTING)
        cluster.passes(seat, POLL_S)
        (node,) = [n for n in cluster.nodes if n.instance_id == instance.instance_id]
        registry.publish(replace(node, state=NodeState.RETIRING, reason="Unfit: The check nfs failed.", unfit=True))
        cluster.passes(seat, POLL_S)
        cluster.fleet.guest_shut_down(instance.instance_id)
        cluster.registries.pop(instance.instance_id).leave()
        cluster.passes(seat, 12)


def test_nodes_that_register_and_are_unfit_before_any_task_ran_pause_the_pool_too(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    useless(cluster, seat, TRIP_AFTER)
    assert cluster.living == []
    assert "The check nfs failed" in cluster.problems()[POOL]
    assert len(cluster.events("pool_paused")) == 1
    assert "did not start" in cluster.view.queues[0].unserved


def test_a_successor_does_not_count_a_useless_node_again(cluster: Cluster) -> None:
    first, second = cluster.seat(), cluster.seat()
    cluster.enqueue(1)
    useless(cluster, first, TRIP_AFTER - 1)
    cluster.passes(first, POLL_S)
    (instance,) = cluster.living
    registry = cluster.register(instance.instance_id)
    registry.publish(replace(cluster.nodes[0], state=NodeState.RETIRING, reason="Unfit: x", unfit=True))
    first.lead()
    first.election.resign()
    cluster.passes(second, 20)
    assert len(cluster.events("pool_paused")) == 1
    assert f"{TRIP_AFTER} instances" in cluster.problems()[POOL]


def test_old_nodes_that_work_do_not_prove_that_new_ones_would(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    cluster.passes(seat, POLL_S)
    (old,) = cluster.living
    cluster.register(old.instance_id, SlotState.BUSY)
    cluster.passes(seat, 60)
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 2))
    useless(cluster, seat, TRIP_AFTER)
    assert [instance.instance_id for instance in cluster.living] == [old.instance_id]
    assert POOL in cluster.problems()


def test_a_node_of_a_later_launch_that_works_ends_it_and_one_that_only_registers_does_not(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(3)
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 1))
    useless(cluster, seat, TRIP_AFTER)
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 10))
    cluster.passes(seat, FIRST_PAUSE_S)
    (trial,) = cluster.living
    registry = cluster.register(trial.instance_id)
    cluster.passes(seat, 60)
    assert len(cluster.living) == 1, "the next one is launched when this one has worked"
    registry.publish(replace(cluster.nodes[0], slots=(Slot(0, SlotState.BUSY, cluster.clock.now()),), worked=True))
    cluster.passes(seat, 2 * POLL_S)
    assert len(cluster.living) > 1
    assert len(cluster.events("pool_resumed")) == 1


def test_a_machine_that_breaks_after_it_has_idled_for_an_hour_is_no_failed_start(cluster: Cluster) -> None:
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 2, min_instances=1, idle_timeout_s=None))
    seat = cluster.seat()
    for _ in range(TRIP_AFTER):
        cluster.passes(seat, 2 * POLL_S)
        (instance,) = cluster.living
        registry = cluster.register(instance.instance_id)
        cluster.passes(seat, 3600)
        (node,) = cluster.nodes
        registry.publish(replace(node, state=NodeState.RETIRING, reason="Unfit: its GPU fell off.", unfit=True))
        cluster.passes(seat, POLL_S)
        cluster.fleet.guest_shut_down(instance.instance_id)
        cluster.registries.pop(instance.instance_id).leave()
        cluster.passes(seat, 12)
    assert cluster.events("pool_paused") == []


def everything_in_etcd(cluster: Cluster) -> str:
    return "\n".join(
        entry.value for entry in cluster.etcd.client("observer").get_prefix(KEYS.starts.removesuffix("starts/"))
    )


def test_secrets_that_an_init_script_prints_on_the_console_do_not_come_into_etcd(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(TRIP_AFTER)
    cluster.passes(seat, POLL_S)
    console = "+ export API_TOKEN=hunter2-in-the-log\nscaler-sidecar[7]: The init script failed: password: hunter2-said"
    for instance in cluster.living:
        cluster.fleet.write_console(instance.instance_id, console)
        cluster.fleet.guest_shut_down(instance.instance_id)
    cluster.passes(seat, 12)
    (problem,) = [p for p in cluster.view.problems if p.about == POOL]
    assert "The init script failed" in problem.what
    assert "API_TOKEN" in problem.detail
    assert "hunter2" not in everything_in_etcd(cluster)


def test_a_failed_start_is_masked_also_where_the_node_did_not_mask_its_reason(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    cluster.passes(seat, POLL_S)
    (instance,) = cluster.living
    registry = cluster.register(instance.instance_id, SlotState.STARTING)
    reason = "Unfit: The check nfs failed: password=hunter2"
    registry.publish(replace(cluster.nodes[0], state=NodeState.RETIRING, reason=reason, unfit=True))
    cluster.passes(seat, POLL_S)
    (record_of_starts,) = cluster.etcd.client("observer").get_prefix(KEYS.starts)
    assert "The check nfs failed" in record_of_starts.value
    assert "hunter2" not in record_of_starts.value
