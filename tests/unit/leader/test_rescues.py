"""Which rescues the leader makes when the server refuses some, when queues leave the configuration, and under a long backlog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from scaler_plugin.coordination.former_queues import read_former_queues
from scaler_plugin.coordination.handbacks import promise
from scaler_plugin.core.handback import Handback
from scaler_plugin.core.model import (
    InstanceId,
    PoolName,
    QueueName,
    ServerTask,
    SlotState,
    TaskId,
    TaskStatus,
    WorkerId,
)
from scaler_plugin.core.policy import PoolPolicy
from scaler_plugin.errors import TaskServerRefused, TaskServerUnavailable
from scaler_plugin.leader.open_tasks import LONGEST_REST_S
from scaler_plugin.leader.refused_tasks import LEFT_ALONE_S

from .cluster import KEYS, Cluster, Seat

CPU, OTHER = QueueName("cpu-tasks"), QueueName("other-tasks")


@pytest.fixture
def closed(cluster: Cluster) -> Cluster:
    """A cluster that may launch nothing: whatever waits goes on waiting."""
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (CPU,), 0))
    return cluster


def in_limbo(cluster: Cluster, number: int) -> list[TaskId]:
    tasks = cluster.enqueue(number)
    for _ in tasks:
        cluster.server.get_next_task(CPU)
    return tasks


def refuse(seat: Seat, refused: Sequence[TaskId], error: Callable[[], Exception]) -> Counter[TaskId]:
    """Let the server refuse to put these back; how often each is tried."""
    tried: Counter[TaskId] = Counter()
    put_back = seat.server.requeue

    def requeue(task: ServerTask, queue: QueueName, reason: str) -> bool:
        tried[task.task_id] += 1
        if task.task_id in refused:
            raise error()
        return put_back(task, queue, reason)

    seat.server.requeue = requeue  # type: ignore[method-assign]
    return tried


def not_allowed() -> TaskServerRefused:
    return TaskServerRefused("The server refused tasks.enqueue (400/110: not allowed).", 110)


def waiting(cluster: Cluster, tasks: Sequence[TaskId]) -> list[bool]:
    return [cluster.server.waits_in(CPU, task) for task in tasks]


def run_on(cluster: Cluster, queue: QueueName = CPU, pool: str = "cpu") -> tuple[str, TaskId]:
    """An instance of the pool, whose node runs a task of the queue."""
    (task,) = cluster.enqueue(1, queue)
    cluster.server.get_next_task(queue)
    instance = next(i.instance_id for i in cluster.living if i.pool == pool and i.instance_id not in cluster.registries)
    cluster.register(instance, SlotState.BUSY, pool)  # of a stock agent nobody knows the queue
    cluster.server.started(task)
    cluster.clock.advance(1)
    cluster.server.status_report(WorkerId(f"c:{pool}:c5.large:{instance}"), task)
    return instance, task


def at_work(cluster: Cluster) -> tuple[Seat, str, TaskId]:
    """A leader, and the instance that it has launched for a task, whose node runs one."""
    seat = cluster.seat()
    cluster.enqueue(1)
    seat.lead()
    cluster.clock.advance(35)
    cluster.server.get_next_task(CPU)
    return seat, *run_on(cluster)


# --- one task that is refused


def test_a_task_that_is_refused_holds_up_no_other_and_is_tried_again_in_minutes(closed: Cluster) -> None:
    seat = closed.seat()
    tasks = in_limbo(closed, 3)
    tried = refuse(seat, tasks[:1], not_allowed)
    closed.passes(seat, 120)
    assert waiting(closed, tasks) == [False, True, True]
    assert tried == dict.fromkeys(tasks, 1)
    assert "not allowed" in closed.problems()[f"task {tasks[0]}"]
    assert "ClearML" not in closed.problems(), "the service answers"
    closed.passes(seat, 2 * LEFT_ALONE_S)
    assert tried[tasks[0]] in (2, 3)


def test_more_refused_tasks_than_a_pass_tries_hold_up_the_others_for_some_sweeps_only(closed: Cluster) -> None:
    seat = closed.seat()
    tasks = in_limbo(closed, 10)
    refuse(seat, tasks[:9], not_allowed)
    closed.passes(seat, 120)
    assert waiting(closed, tasks) == [False] * 9 + [True]
    assert closed.problems()["rescue"].startswith("6 more tasks")


def test_a_task_that_is_refused_no_more_is_put_back_and_no_problem(closed: Cluster) -> None:
    seat = closed.seat()
    tasks = in_limbo(closed, 1)
    refused = list(tasks)
    refuse(seat, refused, not_allowed)
    closed.passes(seat, 120)
    refused.clear()
    closed.passes(seat, LEFT_ALONE_S + 20)
    assert waiting(closed, tasks) == [True]
    assert f"task {tasks[0]}" not in closed.problems()


def test_a_server_that_cannot_be_used_rests_as_a_whole(closed: Cluster) -> None:
    seat = closed.seat()
    tasks = in_limbo(closed, 3)
    tried = refuse(seat, tasks, lambda: TaskServerUnavailable("The server is away."))
    closed.passes(seat, 64)
    assert 0 < sum(tried.values()) < 3, "after the first failure the others are not tried"


def test_a_promise_that_is_refused_holds_up_no_other(closed: Cluster) -> None:
    seat = closed.seat()
    worker = WorkerId("c:cpu:c5.large:i-gone")
    tasks = in_limbo(closed, 2)
    for task in tasks:
        closed.server.started(task)
        closed.server.status_report(worker, task)
        closed.server.stopped(task)
        told = Handback(task, InstanceId("i-gone"), worker, CPU, 0, "EC2 took it.", closed.clock.now() - 3600)
        promise(closed.etcd.client("people"), KEYS, told)
    tried = refuse(seat, tasks[:1], not_allowed)
    closed.passes(seat, 60)
    assert waiting(closed, tasks) == [False, True]
    assert tried[tasks[0]] == 1
    assert "not allowed" in closed.problems()[f"task {tasks[0]}"]


# --- queues that are configured no more


@pytest.fixture
def two_pools(cluster: Cluster) -> Cluster:
    cluster.server.create_queue(OTHER)
    cluster.set_policy(PoolPolicy(PoolName("cpu"), (CPU,), 10), PoolPolicy(PoolName("other"), (OTHER,), 10))
    return cluster


def without_pool_cpu(cluster: Cluster) -> None:
    cluster.set_policy(PoolPolicy(PoolName("other"), (OTHER,), 10))


def test_a_task_of_a_removed_pool_is_rescued_when_its_instance_dies_under_whoever_leads(two_pools: Cluster) -> None:
    seat, instance, task = at_work(two_pools)
    without_pool_cpu(two_pools)
    two_pools.passes(seat, 30)
    # The node dies, and the leader with it.
    two_pools.fleet.interrupt(InstanceId(instance))
    two_pools.registries.clear()
    seat.election.resign()
    two_pools.after_ttl()
    successor = two_pools.seat()
    two_pools.passes(successor, 300)
    found = two_pools.server.task(task)
    assert (found.status, found.requeues) == (TaskStatus.QUEUED, 1)
    assert two_pools.server.waits_in(CPU, task)


def test_tasks_that_wait_in_a_removed_queue_are_left_as_they_are(two_pools: Cluster) -> None:
    seat, _, _ = at_work(two_pools)
    waits = two_pools.enqueue(3)
    popped_by_others = two_pools.enqueue(1)
    order = two_pools.server.backlogs([CPU])[CPU].task_ids
    without_pool_cpu(two_pools)
    two_pools.passes(seat, 600)
    assert two_pools.server.backlogs([CPU])[CPU].task_ids == order
    assert {two_pools.server.task(t).requeues for t in (*waits, *popped_by_others)} == {0}


def test_a_removed_queue_is_forgotten_once_its_instances_are_long_gone(two_pools: Cluster) -> None:
    seat, instance, task = at_work(two_pools)
    people = two_pools.etcd.client("people")
    two_pools.passes(seat, 10)
    assert not read_former_queues(people, KEYS).served, "it is configured"
    without_pool_cpu(two_pools)
    two_pools.passes(seat, 10)
    assert read_former_queues(people, KEYS).served == {CPU: (instance,)}
    two_pools.server.completed(task)
    two_pools.fleet.interrupt(InstanceId(instance))
    two_pools.registries.clear()
    two_pools.passes(seat, 4000)
    assert not read_former_queues(people, KEYS).served


# --- a long backlog


@pytest.fixture
def long_backlog(closed: Cluster) -> Cluster:
    """300 waiting tasks are 30 pages of this server."""
    closed.server.page_size = 10
    return closed


def slow(cluster: Cluster, seat: Seat, page_takes_s: float) -> list[float]:
    """Each page of a listing takes so long; when each was asked for."""
    asked: list[float] = []
    page_of = seat.server.open_tasks_page

    def open_tasks_page(queues: Sequence[QueueName], statuses: Sequence[TaskStatus], page: int) -> object:
        asked.append(cluster.clock.monotonic())
        cluster.clock.advance(page_takes_s)
        return page_of(queues, statuses, page)

    seat.server.open_tasks_page = open_tasks_page  # type: ignore[method-assign,assignment]
    return asked


def test_a_long_backlog_is_read_in_portions_with_ten_times_as_long_between_two_readings(
    long_backlog: Cluster,
) -> None:
    seat = long_backlog.seat()
    long_backlog.enqueue(300)
    asked = slow(long_backlog, seat, 0.4)
    busiest, began = 0, long_backlog.clock.monotonic()
    while long_backlog.clock.monotonic() - began < 1200:
        before = len(asked)
        long_backlog.passes(seat, 2)
        busiest = max(busiest, len(asked) - before)
    assert 30 < len(asked) < 1200 * 0.25 / 0.4
    assert busiest <= 6


def test_a_task_in_limbo_behind_a_long_backlog_is_put_back_and_no_waiting_task_is_touched(
    long_backlog: Cluster,
) -> None:
    seat = long_backlog.seat()
    (lost,) = in_limbo(long_backlog, 1)
    waits = long_backlog.enqueue(300)
    slow(long_backlog, seat, 0.4)
    long_backlog.passes(seat, LONGEST_REST_S)
    assert long_backlog.server.waits_in(CPU, lost)
    assert long_backlog.server.task(lost).requeues == 1
    assert {long_backlog.server.task(task).requeues for task in waits} == {0}


def test_with_a_long_backlog_a_task_of_a_dead_instance_is_back_within_half_a_minute(long_backlog: Cluster) -> None:
    long_backlog.set_policy(PoolPolicy(PoolName("cpu"), (CPU,), 1))
    seat = long_backlog.seat()
    long_backlog.enqueue(1)
    seat.lead()
    long_backlog.clock.advance(35)
    long_backlog.server.get_next_task(CPU)
    instance, task = run_on(long_backlog)
    long_backlog.enqueue(300)
    slow(long_backlog, seat, 0.4)
    long_backlog.passes(seat, 120)
    long_backlog.fleet.interrupt(InstanceId(instance))
    long_backlog.registries.clear()
    died_at = long_backlog.clock.monotonic()
    while long_backlog.server.task(task).status is TaskStatus.IN_PROGRESS:
        long_backlog.passes(seat, 2)
        assert long_backlog.clock.monotonic() - died_at < 45
    assert long_backlog.server.waits_in(CPU, task)


def test_suspects_are_unknown_until_every_task_was_looked_at(long_backlog: Cluster) -> None:
    seat = long_backlog.seat()
    long_backlog.enqueue(300)
    slow(long_backlog, seat, 0.4)
    seat.lead()
    assert seat.leader.remains is not None
    assert seat.leader._rescuer.suspects is None
    long_backlog.passes(seat, 60)
    assert seat.leader._rescuer.suspects == 0


def test_after_a_long_backlog_is_gone_one_request_reads_all_again(long_backlog: Cluster) -> None:
    seat = long_backlog.seat()
    tasks = long_backlog.enqueue(30)
    long_backlog.passes(seat, 20)
    for task in tasks[1:]:
        long_backlog.server.dequeue(task)
    long_backlog.passes(seat, 60)
    before = seat.server.calls
    long_backlog.passes(seat, 150)
    assert seat.server.calls - before <= 75 + 11, "one call a pass, and one a sweep"


def test_many_rescues_are_made_in_several_passes(closed: Cluster) -> None:
    seat = closed.seat()
    tasks = in_limbo(closed, 30)
    closed.passes(seat, 55)
    put_back = seat.server.requeue

    def requeue(task: ServerTask, queue: QueueName, reason: str) -> bool:
        closed.clock.advance(1.0)
        return put_back(task, queue, reason)

    seat.server.requeue = requeue  # type: ignore[method-assign]
    longest = 0.0
    for _ in range(40):
        began = closed.clock.monotonic()
        closed.passes(seat, 2)
        longest = max(longest, closed.clock.monotonic() - began)
    assert waiting(closed, tasks) == [True] * 30
    assert longest < 10
