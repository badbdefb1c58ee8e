"""What a node may rely on that has to give a task back: it finds it, asks for its stop as people do, and puts it back."""

from __future__ import annotations

from typing import Any

import pytest

from scaler_plugin.clearml_server.answers import task_in_hand
from scaler_plugin.core.model import QueueName, TaskId, TaskStatus, WorkerId

from .worlds import World

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own, of pyparsing

OURS = WorkerId("demo:gpu:g5.xlarge:i-1")
WHY = "EC2 takes this spot instance back."


def running(world: World, queue: QueueName) -> TaskId:
    task = world.create_task()
    world.enqueue(task, queue)
    assert world.get_next_task(queue) == task
    world.status_report(OURS, task)
    world.started(task, force=True)
    world.let_time_pass()
    return task


def test_a_running_task_is_found_with_its_worker_and_the_name_of_its_queue(world: World, queue: QueueName) -> None:
    found = world.leader.find_task(running(world, queue))
    assert found is not None
    assert (found.task.status, found.task.worker_id, found.task.queue) == (TaskStatus.IN_PROGRESS, OURS, queue)
    assert not found.stopping
    assert found.abort_callback_s is None


def test_a_task_that_does_not_exist_is_none(world: World) -> None:
    assert world.leader.find_task(TaskId("f" * 32)) is None


def test_asking_a_living_worker_to_stop_leaves_the_task_to_it(world: World, queue: QueueName) -> None:
    task = running(world, queue)
    world.leader.ask_to_stop(task, WHY)
    found = world.leader.find_task(task)
    assert found is not None
    assert found.stopping
    assert found.task.status is TaskStatus.IN_PROGRESS


def test_the_stopped_task_goes_back_to_the_head_of_its_queue_and_counts(world: World, queue: QueueName) -> None:
    task = running(world, queue)
    other = world.create_task()
    world.enqueue(other, queue)
    world.leader.ask_to_stop(task, WHY)
    world.stopped(task)
    world.let_time_pass()
    found = world.leader.find_task(task)
    assert found is not None
    assert found.task.status is TaskStatus.STOPPED
    assert not found.stopping
    assert world.leader.requeue(found.task, queue, WHY)
    assert world.leader.backlogs([queue])[queue].task_ids == (task, other)
    again = world.leader.find_task(task)
    assert again is not None
    assert (again.task.status, again.task.requeues, again.stopping) == (TaskStatus.QUEUED, 1, False)


@pytest.mark.parametrize(
    ("runtime", "seconds"),
    [
        ({"_abort_callback_timeout": 30.0, "_abort_poll_freq": 15.0}, 45.0),
        ({"_abort_callback_timeout": "30"}, 30.0),
        ({"_abort_callback_timeout": -1.0, "_abort_poll_freq": 0}, None),  # the SDK's way to take a callback back
        ({"_abort_callback_timeout": "soon"}, None),
        (None, None),
    ],
)
def test_an_abort_callback_is_read_from_the_tasks_runtime_as_the_agent_reads_it(
    runtime: Any, seconds: float | None
) -> None:
    document = {
        "id": "a" * 32,
        "status": "in_progress",
        "last_update": "2026-01-01T00:00:00.000000+00:00",
        "runtime": runtime,
    }
    found = task_in_hand(document, {})
    assert found is not None
    assert found.abort_callback_s == seconds
