"""Instances that are of no use end, however many and whatever EC2 refuses; and none that may hold a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

import pytest

from scaler_plugin.cloud.memory_faults import Failure
from scaler_plugin.core.model import InstanceId, NodeState, PoolName, QueueName, SlotState, TaskId, TaskStatus, WorkerId
from scaler_plugin.core.policy import PoolPolicy
from scaler_plugin.errors import CloudRefused, NotLeader, TaskServerUnavailable
from scaler_plugin.leader.terminating import MOST_ALONE, MOST_AT_ONCE, MOST_TOLD, MOST_TOLD_LATER, REFUSED_REST_S

from .cluster import KEYS, POLL_S, Cluster, Seat

STARTUP_S = 600.0
LOST_AFTER_S = 1800.0
QUEUE = QueueName("cpu-tasks")


def late(cluster: Cluster, seat: Seat, number: int) -> list[InstanceId]:
    """So many instances, a pass before their startup timeout."""
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (QUEUE,), number), maximum=number)
    cluster.enqueue(number)
    cluster.passes(seat, 12)
    ids = [instance.instance_id for instance in cluster.living]
    assert len(ids) == number
    started = min(instance.launched_at for instance in cluster.living)
    cluster.passes(seat, started + STARTUP_S - cluster.clock.now() - POLL_S)
    return ids


def living(cluster: Cluster, ids: Sequence[InstanceId]) -> list[InstanceId]:
    return [i for i in ids if i in {instance.instance_id for instance in cluster.living}]


def worker_of(instance_id: str) -> WorkerId:
    return WorkerId(f"c:cpu:c5.large:{instance_id}")


def protect(cluster: Cluster, *ids: InstanceId) -> None:
    """Termination protection: EC2 refuses every call that names one of them."""
    terminate = cluster.fleet.terminate

    def refuse(wanted: Sequence[InstanceId]) -> None:
        if set(ids) & set(wanted):
            raise CloudRefused("EC2 refused: it is protected.", "OperationNotPermitted")
        terminate(wanted)

    cluster.fleet.terminate = refuse  # type: ignore[method-assign]


def test_a_hundred_late_instances_end_with_one_call_and_each_pass_tells_three_at_length(cluster: Cluster) -> None:
    seat = cluster.seat()
    ids = late(cluster, seat, MOST_AT_ONCE)
    asked = seat.fleet.calls["console_output"]
    order: list[str] = []
    seat.fleet.after["terminate"] = lambda: order.append(f"consoles before: {seat.fleet.calls['console_output']}")
    while living(cluster, ids):
        cluster.passes(seat, POLL_S)
    assert seat.fleet.calls["terminate"] == 1
    # The start watch has read those that it counts before; the terminations read theirs when EC2 was told.
    (told,) = order
    assert seat.fleet.calls["console_output"] - int(told.split()[-1]) <= MOST_TOLD
    assert asked <= int(told.split()[-1])
    assert len([e for e in cluster.events("start_failed") if e.about in ids]) == MOST_TOLD
    for _ in range(20):
        read = seat.fleet.calls["console_output"]
        cluster.passes(seat, POLL_S)
        assert seat.fleet.calls["console_output"] - read <= MOST_TOLD
    told = [event.about for event in cluster.events("start_failed") if event.about in ids]
    assert len(set(told)) == len(told) == MOST_TOLD + MOST_TOLD_LATER
    (others,) = cluster.events("instances_terminated")
    assert others.sentence.startswith(f"{MOST_AT_ONCE - MOST_TOLD - MOST_TOLD_LATER} more of pool cpu terminated")


def test_a_pass_ends_in_time_however_slow_each_mark_is_and_the_next_ones_go_on(cluster: Cluster) -> None:
    seat = cluster.seat()
    ids = late(cluster, seat, 60)
    fenced = seat.election.fenced

    def slow(writes: Sequence[object], compare: Sequence[object] = ()) -> bool:
        if any("condemned/" in getattr(write, "key", "") for write in writes):
            cluster.clock.advance(1.0)
            seat.election.renew()  # as its own thread does
        return fenced(writes, compare)  # type: ignore[arg-type]

    seat.election.fenced = slow  # type: ignore[method-assign]
    longest = 0.0
    for _ in range(20):
        before = cluster.clock.monotonic()
        cluster.passes(seat, POLL_S)
        longest = max(longest, cluster.clock.monotonic() - before - POLL_S)
    assert longest <= 11, "half of two TTLs, and a mark"
    assert living(cluster, ids) == []
    assert seat.fleet.calls["terminate"] >= 5


@pytest.mark.parametrize("number", [1, 5, 40])
def test_an_instance_that_cannot_be_terminated_saves_no_other_and_is_a_problem(cluster: Cluster, number: int) -> None:
    seat = cluster.seat()
    ids = late(cluster, seat, number)
    protect(cluster, ids[0])
    cluster.passes(seat, 60)
    assert living(cluster, ids) == ids[:1]
    assert "can't be terminated: EC2 refused: it is protected" in cluster.problems()[ids[0]]
    calls = seat.fleet.calls["terminate"]
    assert calls <= 2 + number
    cluster.passes(seat, REFUSED_REST_S - 60)
    assert seat.fleet.calls["terminate"] - calls <= 1
    seat.server.calls = 0
    cluster.passes(seat, 60)
    assert seat.server.calls <= 60 / POLL_S * 2 + 8, "ClearML is not asked about it while it rests"


def test_many_that_cannot_be_terminated_are_tried_a_few_at_a_time_and_named_in_few_problems(cluster: Cluster) -> None:
    seat = cluster.seat()
    ids = late(cluster, seat, 30)
    protect(cluster, *ids)
    before = seat.fleet.calls["terminate"]
    cluster.passes(seat, 4 * POLL_S)
    assert seat.fleet.calls["terminate"] - before <= 4 * MOST_ALONE + 1
    cluster.passes(seat, 10 * POLL_S)
    assert len([about for about in cluster.problems() if about in ids]) == MOST_TOLD
    assert f"{30 - MOST_TOLD} more instances" in cluster.problems()["EC2 TerminateInstances"]


@pytest.mark.parametrize("protected", [1, MOST_AT_ONCE])
def test_a_refused_batch_takes_no_longer_than_a_pass_may_and_those_that_may_end_do_so_soon(
    cluster: Cluster, protected: int
) -> None:
    seat = cluster.seat()
    ids = late(cluster, seat, MOST_AT_ONCE)
    protect(cluster, *ids[:protected])
    refuse = cluster.fleet.terminate

    def slow(wanted: Sequence[InstanceId]) -> None:
        cluster.clock.advance(1.5)
        seat.election.renew()  # as its own thread does
        refuse(wanted)

    cluster.fleet.terminate = slow  # type: ignore[method-assign]
    longest, passes = 0.0, 0
    while living(cluster, ids) != ids[:protected] or passes < 15:
        before = cluster.clock.monotonic()
        cluster.passes(seat, POLL_S)
        longest = max(longest, cluster.clock.monotonic() - before - POLL_S)
        passes += 1
        assert passes <= MOST_AT_ONCE / MOST_ALONE + 5
    assert longest <= 1.5 * (MOST_ALONE + 1)
    assert living(cluster, ids) == ids[:protected]


def fail_workers(seat: Seat) -> list[int]:
    """ClearML answers every call but this one; each time that it is asked."""
    asked: list[int] = []

    def no_answer() -> NoReturn:
        asked.append(1)
        raise TaskServerUnavailable("ClearML did not answer workers.get_all.")

    seat.server.workers = no_answer  # type: ignore[method-assign]
    return asked


def test_a_call_that_clearml_fails_at_when_asked_about_late_instances_is_made_ever_more_seldom(
    cluster: Cluster,
) -> None:
    seat = cluster.seat()
    ids, workers = late(cluster, seat, 1), seat.server.workers
    asked = fail_workers(seat)
    cluster.passes(seat, 300)
    assert 5 <= len(asked) <= 15
    assert living(cluster, ids) == ids
    assert "workers.get_all" in cluster.problems()["ClearML (late instances)"]
    seat.server.workers = workers  # type: ignore[method-assign]
    cluster.passes(seat, 64)
    assert living(cluster, ids) == []


def test_a_call_that_clearml_fails_at_when_asked_about_a_late_instance_holds_up_no_rescue(cluster: Cluster) -> None:
    seat = cluster.seat()
    gone, _ = late(cluster, seat, 2)
    task = cluster.server.get_next_task(QUEUE)
    assert task is not None
    cluster.register(gone, SlotState.BUSY)
    cluster.server.started(task)
    cluster.clock.advance(1)
    cluster.server.status_report(worker_of(gone), task)
    asked = fail_workers(seat)
    cluster.passes(seat, 20)
    assert asked
    cluster.fleet.interrupt(gone)
    cluster.registries.pop(gone)
    cluster.passes(seat, 300)
    assert cluster.server.waits_in(QUEUE, task)


def test_an_answer_that_got_lost_rests_the_service_and_then_all_end(cluster: Cluster) -> None:
    seat = cluster.seat()
    ids = late(cluster, seat, 5)
    cluster.fleet.faults.fail_next("terminate", Failure.LOST_REQUEST, calls=3)
    cluster.passes(seat, 4 * POLL_S)
    assert "EC2 TerminateInstances" in cluster.problems()
    cluster.passes(seat, 20)
    assert living(cluster, ids) == []
    assert "EC2 TerminateInstances" not in cluster.problems()


def test_an_awaited_instance_that_ec2_lists_no_more_is_waited_for_no_longer_and_not_terminated(
    cluster: Cluster,
) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    cluster.passes(seat, 12)
    (lost,) = [instance.instance_id for instance in cluster.living]
    listed = cluster.fleet.instances
    cluster.fleet.instances = lambda: tuple(i for i in listed() if i.instance_id != lost)  # type: ignore[method-assign]
    cluster.passes(seat, STARTUP_S - 30)
    assert lost in cluster.launches[0].awaited
    cluster.passes(seat, 60)
    assert seat.fleet.calls["terminate"] == 0
    assert all(lost not in launch.awaited for launch in cluster.launches)
    assert [event.about for event in cluster.events("instance_vanished")] == [lost]


class CutOff:
    """Idle nodes that have lost etcd, and not ClearML or EC2: their agents go on asking."""

    def __init__(self, cluster: Cluster, seat: Seat, number: int) -> None:
        self.cluster, self.seat = cluster, seat
        cluster.enqueue(number)
        cluster.passes(seat, 12)
        self.ids = [instance.instance_id for instance in cluster.living]
        for instance_id in self.ids:
            cluster.register(instance_id)
            task = cluster.server.get_next_task(QUEUE)
            assert task is not None
            cluster.server.started(task)
            cluster.server.completed(task)
        self.tasks: dict[InstanceId, TaskId] = {}
        self.silent: set[InstanceId] = set()
        cluster.passes(seat, STARTUP_S)
        cluster.registries.clear()
        self.report()
        cluster.clock.advance(31)
        cluster.etcd.tick()

    def report(self) -> None:
        for instance_id in self.ids:
            if instance_id not in self.silent:
                self.cluster.server.status_report(worker_of(instance_id), self.tasks.get(instance_id))

    def pull(self, instance_id: InstanceId) -> TaskId:
        (task,) = self.cluster.enqueue(1)
        assert self.cluster.server.get_next_task(QUEUE) == task
        self.cluster.server.started(task)
        self.tasks[instance_id] = task
        self.cluster.server.status_report(worker_of(instance_id), task)
        return task

    def live(self, seconds: float) -> None:
        end = self.cluster.clock.monotonic() + seconds
        while self.cluster.clock.monotonic() < end:
            self.report()
            self.cluster.passes(self.seat, POLL_S)


def test_idle_nodes_that_are_cut_off_from_etcd_alone_are_left_alone_while_their_agents_report(cluster: Cluster) -> None:
    nodes = CutOff(cluster, cluster.seat(), 4)
    nodes.live(LOST_AFTER_S - 100)
    assert living(cluster, nodes.ids) == nodes.ids
    assert "cut off from etcd" in cluster.problems()[nodes.ids[0]]
    nodes.live(300)
    assert living(cluster, nodes.ids) == []


def test_an_idle_node_whose_agent_is_silent_as_well_ends(cluster: Cluster) -> None:
    nodes = CutOff(cluster, cluster.seat(), 2)
    nodes.silent.add(nodes.ids[0])
    nodes.live(200)
    assert living(cluster, nodes.ids) == nodes.ids[1:]


def test_under_a_long_backlog_a_pass_reads_few_pages_and_a_late_instance_ends_unless_it_works(cluster: Cluster) -> None:
    seat = cluster.seat()
    ids = late(cluster, seat, 3)
    cluster.server.page_size = 5
    task = cluster.server.get_next_task(QUEUE)
    assert task is not None
    cluster.server.started(task)
    cluster.server.status_report(worker_of(ids[1]), task)
    cluster.server.unregister_worker(worker_of(ids[1]))  # as after 600 s of silence: only the task speaks for it
    cluster.enqueue(500)
    before = seat.server.calls
    cluster.passes(seat, 2 * POLL_S)
    assert living(cluster, ids) == [ids[1]]
    assert seat.server.calls - before < 80, "the backlog has a hundred pages"


def between_marks_and_call(seat: Seat, act: Callable[[], object]) -> None:
    """Let something happen when ClearML is asked for the second time in a pass."""
    looks: list[int] = []
    workers = seat.server.workers
    fenced = seat.election.fenced

    def marked(writes: Sequence[object], compare: Sequence[object] = ()) -> bool:
        if any("condemned/" in getattr(write, "key", "") for write in writes) and compare:
            looks.append(1)
        return fenced(writes, compare)  # type: ignore[arg-type]

    def asked() -> object:
        if looks:
            seat.server.workers = workers  # type: ignore[method-assign]
            act()
        return workers()

    seat.election.fenced = marked  # type: ignore[method-assign]
    seat.server.workers = asked  # type: ignore[method-assign, assignment]


def test_a_task_that_is_pulled_while_many_are_marked_lives_and_its_node_may_register_again(cluster: Cluster) -> None:
    seat = cluster.seat()
    nodes = CutOff(cluster, seat, 3)
    between_marks_and_call(seat, lambda: nodes.pull(nodes.ids[1]))
    nodes.live(LOST_AFTER_S + 200)
    assert living(cluster, nodes.ids) == [nodes.ids[1]]
    assert cluster.server.task(nodes.tasks[nodes.ids[1]]).status is TaskStatus.IN_PROGRESS
    assert cluster.etcd.read_key(KEYS.condemned(nodes.ids[1])) is None
    cluster.register(nodes.ids[1])
    assert [node.instance_id for node in cluster.nodes] == [nodes.ids[1]]


def test_a_task_that_is_popped_and_not_started_yet_spares_those_that_may_have_popped_it(cluster: Cluster) -> None:
    seat = cluster.seat()
    nodes = CutOff(cluster, seat, 3)

    def pop() -> None:
        cluster.enqueue(1)
        assert cluster.server.get_next_task(QUEUE)

    between_marks_and_call(seat, pop)
    nodes.live(LOST_AFTER_S + 80)
    assert seat.fleet.calls["terminate"] == 0
    nodes.live(200)
    assert living(cluster, nodes.ids) == [], "one that nobody ever starts protects nobody for long"


@pytest.mark.parametrize("fails", ["clearml", "ec2"])
def test_a_mark_goes_when_its_instance_is_spared_after_a_pass_that_could_not_end_it(
    cluster: Cluster, fails: str
) -> None:
    seat = cluster.seat()
    nodes = CutOff(cluster, seat, 2)
    nodes.silent.update(nodes.ids)

    def no_answer() -> None:
        raise TaskServerUnavailable("ClearML did not answer.")

    if fails == "clearml":
        between_marks_and_call(seat, no_answer)
    else:
        cluster.fleet.faults.fail_next("terminate", Failure.LOST_REQUEST, calls=1)
    marks = KEYS.condemned(InstanceId(""))
    while not cluster.etcd.read(marks):
        cluster.passes(seat, POLL_S)
    nodes.silent.clear()  # ClearML has an answer for their agents again
    nodes.pull(nodes.ids[0])
    nodes.live(20)
    assert cluster.etcd.read(marks) == ()
    for instance_id in nodes.ids:
        cluster.register(instance_id)
    assert sorted(node.instance_id for node in cluster.nodes) == sorted(nodes.ids)


def test_a_leader_whose_term_ends_while_it_asks_clearml_ends_nothing(cluster: Cluster) -> None:
    seat = cluster.seat()
    ids = late(cluster, seat, 3)
    between_marks_and_call(seat, lambda: cluster.clock.advance(30))
    with pytest.raises(NotLeader):
        cluster.passes(seat, 20)
    assert living(cluster, ids) == ids


@pytest.mark.parametrize("record_goes_first", [True, False])
def test_a_node_whose_system_shuts_down_is_no_supply_with_its_record_and_without(
    cluster: Cluster, record_goes_first: bool
) -> None:
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()
    (old,) = cluster.living
    cluster.clock.advance(35)
    registry = cluster.register(old.instance_id)
    cluster.server.get_next_task(QUEUE)
    cluster.passes(seat, 60)
    (node,) = cluster.nodes
    registry.publish(replace(node, state=NodeState.RETIRING, reason="Idle."))
    cluster.passes(seat, 2 * POLL_S)
    cluster.registries.clear()
    if record_goes_first:
        registry.leave()
        cluster.passes(seat, 4 * POLL_S)
    cluster.enqueue(1)
    cluster.passes(seat, POLL_S)
    assert len(cluster.living) == 2, "EC2 still calls the old one running"
