"""A pass goes on whatever fails, asks as little as possible, writes only what changed, and tidies up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaler_plugin.clearml_server.memory_client import Fault
from scaler_plugin.coordination.events import Event, record
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.core.model import InstanceState, PoolName, QueueName, SlotState, WorkerId
from scaler_plugin.core.policy import PoolPolicy
from scaler_plugin.errors import CloudRefused, CloudUnavailable, ConfigError

from .cluster import KEYS, POLL_S, Cluster

STARTUP_S = 600.0


def test_a_quiet_leader_asks_clearml_once_a_pass_ec2_once_in_ten_seconds_and_writes_nothing(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.passes(seat, 20)
    revision, asked, listed = cluster.revision, seat.server.calls, seat.fleet.calls["instances"]
    cluster.passes(seat, 120)
    assert cluster.revision == revision
    assert seat.server.calls - asked <= 120 / POLL_S + 1
    assert seat.fleet.calls["instances"] - listed <= 12
    assert set(seat.fleet.calls) == {"instances"}


def test_ec2_is_listed_more_often_while_something_boots(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    cluster.passes(seat, 20)
    assert 5 <= seat.fleet.calls["instances"] <= 8


def test_the_view_is_written_when_something_changes_and_names_the_term(cluster: Cluster) -> None:
    first, second = cluster.seat(), cluster.seat()
    cluster.passes(first, 10)
    revision = cluster.revision
    cluster.enqueue(2)
    cluster.passes(first, POLL_S)
    assert cluster.revision > revision
    assert cluster.view.queues[0].waiting == 2
    assert cluster.view.pools[0].booting == 0, "the view is of what was seen before the pass acted"
    cluster.passes(first, POLL_S)
    assert cluster.view.pools[0].booting == 2
    first.election.resign()
    second.lead()
    assert cluster.view.leader == second.name
    assert cluster.view.term == second.election.leadership.term  # type: ignore[union-attr]


def test_a_view_whose_answer_was_lost_is_written_again(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.passes(seat, 10)
    cluster.enqueue(1, queue="cpu-tasks")
    transact = seat.store.transact

    def lost_before_effect(compare: object, writes: object) -> object:
        if any(getattr(write, "key", "") == KEYS.view for write in writes):  # type: ignore[attr-defined]
            seat.store.transact = transact  # type: ignore[method-assign]
            seat.store.partition()
        return transact(compare, writes)  # type: ignore[arg-type]

    seat.store.transact = lost_before_effect  # type: ignore[method-assign, assignment]
    with pytest.raises(Exception, match="did not answer"):
        cluster.passes(seat, POLL_S)
    seat.store.heal()
    cluster.passes(seat, POLL_S)
    assert cluster.view.queues[0].waiting == 1


def test_a_missing_queue_is_created_in_the_first_pass(cluster: Cluster) -> None:
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("new-queue"),), 3))
    cluster.seat().lead()
    assert cluster.server.backlogs([QueueName("new-queue")])


def test_a_queue_that_cannot_be_created_is_a_problem_and_not_tried_every_pass(cluster: Cluster) -> None:
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("q"), QueueName("cpu-tasks")), 3))
    seat = cluster.seat()
    cluster.passes(seat, 50)
    assert "could not be created" in cluster.problems()["queue q"]
    assert seat.server.calls <= 50 / POLL_S + 3
    revision = cluster.revision
    cluster.passes(seat, 8)
    assert cluster.revision == revision, "the problem stays in the view, so nothing changes"


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE_BEFORE, Fault.BAD_CREDENTIALS])
def test_clearml_away_stops_launches_and_nothing_else_backs_off_and_is_shown(cluster: Cluster, fault: Fault) -> None:
    seat = cluster.seat()
    cluster.enqueue(2)
    seat.server.fault = fault
    cluster.passes(seat, 300)
    assert seat.server.calls <= 15, "with growing pauses up to a minute"
    assert "ClearML" in cluster.problems()
    assert not cluster.view.backlog_known
    assert cluster.living == []
    assert seat.leader.blind_for_s > 200
    seat.server.fault = Fault.NONE
    cluster.passes(seat, 70)
    assert len(cluster.living) == 2
    assert cluster.problems() == {}
    assert seat.leader.blind_for_s == 0


def test_ec2_away_stops_launches_and_is_shown_and_the_reason_stands_at_the_queue(cluster: Cluster) -> None:
    seat = cluster.seat()

    def away() -> None:
        seat.fleet.before["instances"] = away
        raise CloudUnavailable("EC2 did not answer.")

    seat.fleet.before["instances"] = away
    cluster.enqueue(2)
    cluster.passes(seat, 300)
    assert seat.fleet.calls["instances"] <= 15
    assert "EC2" in cluster.problems()
    assert cluster.view.queues[0].unserved.startswith("EC2 could not be read")
    assert cluster.living == []
    seat.fleet.before.clear()
    cluster.passes(seat, 70)
    assert len(cluster.living) == 2


def test_a_configuration_of_which_no_request_can_be_made_is_a_problem_of_its_pool(cluster: Cluster) -> None:
    def no_request(*_: object) -> tuple[()]:
        raise ConfigError("The user-data would have 5000 bytes.")

    cluster.settings = replace(cluster.settings, candidates=no_request)
    cluster.enqueue(1)
    cluster.seat().lead()
    assert cluster.problems()["pool cpu"] == "The user-data would have 5000 bytes."
    assert cluster.launches == ()


def test_an_instance_that_never_registers_is_terminated_with_its_console_kept_and_replaced(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()
    (lost,) = cluster.living
    cluster.fleet.write_console(lost.instance_id, "kernel panic")
    cluster.passes(seat, STARTUP_S - 4)
    assert not cluster.state_of(lost.instance_id).ending
    cluster.passes(seat, 10)
    assert cluster.state_of(lost.instance_id).ending
    event = next(e for e in cluster.events("start_failed") if e.about == lost.instance_id)
    assert event.detail == "kernel panic"
    assert "startup_timeout of 600 s" in event.sentence


def test_what_the_boot_of_a_failed_start_said_stands_in_the_sentence(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()
    (lost,) = cluster.living
    cluster.fleet.write_console(lost.instance_id, "[ 1.0] scaler-sidecar[33]: The secret ssm:/x cannot be read.\nBye\n")
    cluster.passes(seat, STARTUP_S + 10)
    event = next(e for e in cluster.events("start_failed") if e.about == lost.instance_id)
    assert event.sentence.endswith("it was terminated. It said: The secret ssm:/x cannot be read.")
    assert event.detail.endswith("cannot be read.\n")


def test_what_a_failed_start_told_in_etcd_stands_in_the_sentence_although_its_console_is_empty(
    cluster: Cluster,
) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()
    (lost,) = cluster.living
    told = Event(cluster.clock.now(), "start_failed", lost.instance_id, "It could not be set up: no key.", "df -h")
    record(cluster.etcd.client(lost.instance_id), KEYS, told)
    cluster.passes(seat, STARTUP_S + 10)
    event = [e for e in cluster.events("start_failed") if e.about == lost.instance_id][-1]
    assert event.sentence.endswith("it was terminated. It could not be set up: no key.")
    assert event.detail == "df -h"


def test_a_late_instance_that_works_on_a_task_is_left_alone_and_reported(cluster: Cluster) -> None:
    seat = cluster.seat()
    (task,) = cluster.enqueue(1)
    seat.lead()
    (lost,) = cluster.living
    cluster.server.get_next_task(QueueName("cpu-tasks"))
    cluster.server.started(task)
    for _ in range(120):
        cluster.server.status_report(WorkerId(f"c:cpu:c5.large:{lost.instance_id}"), task)
        cluster.passes(seat, 10)
    assert not cluster.state_of(lost.instance_id).ending
    assert task in cluster.problems()[lost.instance_id]


def test_while_clearml_is_away_no_late_instance_is_terminated(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()
    (late,) = cluster.living
    seat.server.fault = Fault.UNAVAILABLE_BEFORE
    cluster.passes(seat, 2 * STARTUP_S)
    assert not cluster.state_of(late.instance_id).ending


def test_a_sidecar_that_registers_at_the_last_moment_wins_over_its_condemnation(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()
    (late,) = cluster.living
    cluster.passes(seat, STARTUP_S - 4)
    workers = seat.server.workers

    def registers_now() -> object:
        cluster.register(late.instance_id, SlotState.BUSY)
        return workers()

    seat.server.workers = registers_now  # type: ignore[method-assign, assignment]
    cluster.passes(seat, 20)
    assert seat.fleet.calls["terminate"] == 0
    assert not cluster.state_of(late.instance_id).ending


def test_an_instance_of_the_cluster_that_nothing_knows_is_terminated_in_time(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()
    cluster.etcd.wipe()
    second = cluster.seat()
    (orphan,) = cluster.living
    cluster.passes(second, STARTUP_S - 10)
    assert not cluster.state_of(orphan.instance_id).ending
    cluster.passes(second, 20)
    assert cluster.state_of(orphan.instance_id).ending


def test_without_the_right_to_terminate_the_rest_goes_on_and_etcd_is_not_written_again_and_again(
    cluster: Cluster,
) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()

    def refuse() -> None:
        seat.fleet.before["terminate"] = refuse
        raise CloudRefused("EC2 refused TerminateInstances.", "UnauthorizedOperation")

    seat.fleet.before["terminate"] = refuse
    cluster.passes(seat, STARTUP_S + 100)
    assert seat.fleet.calls["terminate"] <= 8
    assert any("can't be terminated: EC2 refused" in what for what in cluster.problems().values())
    condemned = [entry.key for entry in cluster.etcd.read(Keys("/scaler", "c").root + "condemned/")]
    assert len(condemned) == 1
    assert len(cluster.etcd.leases) <= 4
    assert len(cluster.living) >= 2, "another instance was launched for the task"


def test_the_record_of_a_node_whose_instance_is_gone_is_removed(cluster: Cluster) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()
    (instance,) = cluster.living
    cluster.register(instance.instance_id)
    cluster.passes(seat, 90)
    assert len(cluster.nodes) == 1
    cluster.fleet.interrupt(instance.instance_id)
    cluster.registries.clear()
    seat.server.fault = Fault.NONE
    cluster.passes(seat, 14)
    assert cluster.nodes == ()
    assert cluster.state_of(instance.instance_id) is InstanceState.TERMINATED
