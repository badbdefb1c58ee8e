"""A leader that is paused in the middle of a rescue, and where the count of requeues is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scaler_plugin.clearml_server.memory import MemoryTaskServer
from scaler_plugin.clearml_server.memory_client import MemoryTaskClient
from scaler_plugin.clearml_server.putting_back import LOOK_HOLDS_S
from scaler_plugin.clearml_server.requeue_count import requeues_in, with_requeues
from scaler_plugin.core.model import QueueName, ServerTask, TaskId, TaskStatus, WorkerId
from scaler_plugin.simulation.clock import VirtualClock

QUEUE = QueueName("default")
OLD, NEW = WorkerId("c:cpu:a:i-old"), WorkerId("c:cpu:a:i-new")
#: The call before which the leader is paused, counted from 1: it has looked, and counts next.
COUNT = 3


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def server(clock: VirtualClock) -> MemoryTaskServer:
    return MemoryTaskServer(clock)


def run_on(server: MemoryTaskServer, clock: VirtualClock, task: TaskId, worker: WorkerId) -> None:
    assert server.get_next_task(QUEUE) == task
    server.started(task, force=True)
    clock.advance(0.1)
    server.status_report(worker, task)


@pytest.fixture
def stranded(server: MemoryTaskServer, clock: VirtualClock) -> ServerTask:
    task = server.create_task()
    server.enqueue(task, QUEUE)
    clock.advance(1)
    run_on(server, clock, task, OLD)
    return server.open_tasks([QUEUE])[0]


def paused_before(client: MemoryTaskClient, call: int, meanwhile: Callable[[], object]) -> None:
    """Let something happen while the client is about to make this call."""
    client.delay_s = 0.001

    def wait(_: float) -> None:
        if client.calls == call:
            client.delay_s = 0.0
            meanwhile()

    client.wait = wait


def test_a_leader_paused_while_another_put_the_task_back_leaves_the_new_run_alone(
    server: MemoryTaskServer, clock: VirtualClock, stranded: ServerTask
) -> None:
    late = server.client("late")

    def meanwhile() -> None:
        clock.advance(300)
        assert server.client("successor").requeue(stranded, QUEUE, "why")
        run_on(server, clock, stranded.task_id, NEW)

    paused_before(late, COUNT, meanwhile)
    assert not late.requeue(stranded, QUEUE, "why")
    task = server.task(stranded.task_id)
    assert (task.status, task.last_worker, task.requeues) == (TaskStatus.IN_PROGRESS, NEW, 1)


def test_a_leader_paused_while_nothing_happened_finishes(
    server: MemoryTaskServer, clock: VirtualClock, stranded: ServerTask
) -> None:
    late = server.client("late")
    paused_before(late, COUNT, lambda: clock.advance(300))
    assert late.requeue(stranded, QUEUE, "why")
    assert server.backlogs([QUEUE])[QUEUE].task_ids == (stranded.task_id,)


def test_a_task_in_limbo_that_is_started_in_the_last_moment_is_not_enqueued(
    server: MemoryTaskServer, clock: VirtualClock
) -> None:
    task = server.create_task()
    server.enqueue(task, QUEUE)
    assert server.get_next_task(QUEUE) == task
    given = server.open_tasks([QUEUE])[0]
    leader = server.client("leader")

    def meanwhile() -> None:
        clock.advance(LOOK_HOLDS_S / 2)  # the look is still fresh
        server.started(task, force=True)

    paused_before(leader, COUNT, meanwhile)
    assert not leader.requeue(given, QUEUE, "why")
    assert server.task(task).status is TaskStatus.IN_PROGRESS
    assert len(server.backlogs([QUEUE])[QUEUE]) == 0


TASK, CLONE = TaskId("0123456789abcdef"), TaskId("fedcba9876543210")


def test_the_count_is_read_as_it_was_written_and_replaces_the_one_before() -> None:
    tags: list[str] = ["archived"]
    for count in (1, 2, 12):
        tags = with_requeues(tags, TASK, count)
        assert requeues_in(tags, TASK) == count
        assert len(tags) == 2
    assert with_requeues(tags, TASK, 0) == ["archived"]


def test_a_clone_does_not_inherit_the_count_and_sheds_it_with_its_own() -> None:
    inherited = with_requeues([], TASK, 3)
    assert requeues_in(inherited, CLONE) == 0
    assert with_requeues(inherited, CLONE, 1) == with_requeues([], CLONE, 1)


@pytest.mark.parametrize(
    "tag", ["scaler-requeued", "scaler-requeued:x:01234567", "scaler-requeued:-1:01234567", "other"]
)
def test_tags_that_are_no_count_are_none(tag: str) -> None:
    assert requeues_in([tag], TASK) == 0
