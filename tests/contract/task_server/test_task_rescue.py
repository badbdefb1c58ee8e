"""What a rescue may rely on: open tasks are seen, put back at the head, counted on themselves, and never moved by mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from scaler_plugin.core.model import QueueName, ServerTask, TaskId, TaskStatus, WorkerId
from scaler_plugin.core.rescue import NO_RESCUE_TAG
from scaler_plugin.errors import TaskServerError, TaskServerRefused, TaskServerUnavailable
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess

from .worlds import STEPS, LiveWorld, World

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own, of pyparsing

GONE, OTHER = WorkerId("demo:cpu:t3.micro:i-gone"), WorkerId("demo:cpu:t3.micro:i-other")
WHY = "Task ran on i-gone, which EC2 has ended."


def enqueued(world: World, queue: QueueName) -> TaskId:
    task = world.create_task()
    world.let_time_pass()
    world.enqueue(task, queue)
    world.let_time_pass()
    return task


def in_limbo(world: World, queue: QueueName) -> TaskId:
    task = enqueued(world, queue)
    assert world.get_next_task(queue) == task
    world.let_time_pass()
    return task


def running(world: World, queue: QueueName, worker: WorkerId = GONE) -> TaskId:
    task = in_limbo(world, queue)
    run_again(world, task, worker)
    return task


def run_again(world: World, task: TaskId, worker: WorkerId = GONE) -> None:
    """What an agent does after it has pulled a task."""
    world.status_report(worker, task)
    world.started(task, force=True)
    world.let_time_pass()


def seen(world: World, queue: QueueName, task: TaskId) -> ServerTask:
    (found,) = [one for one in world.leader.open_tasks([queue]) if one.task_id == task]
    return found


def test_what_waits_runs_or_is_in_limbo_is_open_and_nothing_else(world: World, queue: QueueName) -> None:
    limbo, runs, done = in_limbo(world, queue), running(world, queue), running(world, queue)
    world.completed(done)
    waits, elsewhere = enqueued(world, queue), enqueued(world, QueueName(f"other {queue}"))
    open_tasks = {task.task_id: task for task in world.leader.open_tasks([queue, QueueName("no such queue")])}
    assert set(open_tasks) == {limbo, runs, waits}
    assert {task.queue for task in open_tasks.values()} == {queue}
    assert open_tasks[limbo].status is open_tasks[waits].status is TaskStatus.QUEUED
    assert (open_tasks[runs].status, open_tasks[runs].worker_id) == (TaskStatus.IN_PROGRESS, GONE)
    assert open_tasks[limbo].worker_id is None
    assert open_tasks[limbo].status_changed_at < open_tasks[waits].status_changed_at
    assert elsewhere in [task.task_id for task in world.leader.open_tasks([QueueName(f"other {queue}")])]


def test_open_tasks_are_listed_by_status_and_page_and_named_ones_alone(world: World, queue: QueueName) -> None:
    limbo, runs, done = in_limbo(world, queue), running(world, queue), running(world, queue)
    world.completed(done)
    waits = enqueued(world, queue)
    both = (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)
    expected = {(TaskStatus.QUEUED,): {waits, limbo}, (TaskStatus.IN_PROGRESS,): {runs}, both: {waits, limbo, runs}}
    for statuses, tasks in expected.items():
        page = world.leader.open_tasks_page([queue], statuses, 0)
        assert {task.task_id for task in page.tasks} == tasks
        assert page.last
        beyond = world.leader.open_tasks_page([queue], statuses, 1)
        assert (beyond.tasks, beyond.last) == ((), True)
    named = world.leader.still_open([queue], [limbo, runs, done, TaskId("0" * 32)])
    assert {task.task_id for task in named} == {limbo, runs}
    assert set(named) <= set(world.leader.open_tasks([queue]))
    assert world.leader.still_open([QueueName(f"other {queue}")], [limbo]) == ()
    assert world.leader.still_open([queue], []) == ()
    assert world.leader.open_tasks_page([], both, 0).tasks == ()


def test_without_a_queue_there_are_no_open_tasks(world: World, queue: QueueName) -> None:
    enqueued(world, queue)
    assert world.leader.open_tasks([]) == ()
    assert world.leader.open_tasks([QueueName("no such queue")]) == ()


def test_times_are_seconds_since_the_epoch_and_a_sign_of_life_is_no_change_of_status(
    world: World, queue: QueueName
) -> None:
    task = running(world, queue)
    before = seen(world, queue, task)
    world.let_time_pass()
    world.status_report(GONE, task)
    after = seen(world, queue, task)
    assert after.status_changed_at == before.status_changed_at
    assert after.last_update_at > before.last_update_at > 1e9


@pytest.mark.parametrize("stranded", [in_limbo, running])
def test_a_stranded_task_goes_back_to_the_head_of_its_queue_with_the_reason_on_record(
    world: World, queue: QueueName, stranded: Callable[[World, QueueName], TaskId]
) -> None:
    task = stranded(world, queue)
    others = [enqueued(world, queue) for _ in range(3)]
    assert world.leader.requeue(seen(world, queue, task), queue, WHY)
    assert world.leader.backlogs([queue])[queue].task_ids == (task, *others)
    shown = world.snapshot(task)
    assert (shown.status, shown.waiting, shown.rescue, shown.requeues) == ("queued", True, WHY, 1)
    assert world.get_next_task(queue) == task


def test_a_task_is_put_back_even_if_its_queue_is_gone(world: World, queue: QueueName) -> None:
    task = in_limbo(world, queue)
    new = QueueName(f"new {queue}")
    assert world.leader.requeue(seen(world, queue, task), new, WHY)
    assert world.leader.backlogs([new])[new].task_ids == (task,)


def changed_meanwhile() -> dict[str, Callable[[World, QueueName, TaskId], object]]:
    return {
        "a slow agent started it after all": lambda w, q, t: w.started(t, force=True),
        "a person took it out": lambda w, q, t: w.dequeue(t),
        "a person enqueued it": lambda w, q, t: w.enqueue(t, q),
        "another leader put it back": lambda w, q, t: w.leader.requeue(seen(w, q, t), q, "the other's reason"),
        "it was put back and pulled again": lambda w, q, t: (w.enqueue(t, q), w.get_next_task(q)),
        "a worker reported it": lambda w, q, t: w.status_report(OTHER, t),
        "it was stopped": lambda w, q, t: w.stop(t),
    }


@pytest.mark.parametrize("change", changed_meanwhile())
def test_a_task_in_limbo_that_is_no_longer_as_given_is_left_alone(world: World, queue: QueueName, change: str) -> None:
    task = in_limbo(world, queue)
    given = seen(world, queue, task)
    changed_meanwhile()[change](world, queue, task)
    before = world.snapshot(task)
    assert not world.leader.requeue(given, queue, WHY)
    assert not world.leader.fail_task(given, WHY)
    assert world.snapshot(task) == before


@pytest.mark.parametrize("end", ["completed", "failed", "stopped", "reported by another worker"])
def test_a_running_task_that_is_no_longer_as_given_is_left_alone(world: World, queue: QueueName, end: str) -> None:
    task = running(world, queue)
    given = seen(world, queue, task)
    if end == "reported by another worker":
        world.status_report(OTHER, task)
    else:
        getattr(world, end)(task)
    before = world.snapshot(task)
    assert not world.leader.requeue(given, queue, WHY)
    assert not world.leader.fail_task(given, WHY)
    assert world.snapshot(task) == before


def test_a_task_that_does_not_exist_any_more_is_no_error(world: World, queue: QueueName) -> None:
    given = replace(seen(world, queue, in_limbo(world, queue)), task_id=TaskId("f" * 32))
    assert not world.leader.requeue(given, queue, WHY)
    assert not world.leader.fail_task(given, WHY)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("stranded", [in_limbo, running])
def test_whatever_step_is_lost_the_next_sweep_finishes_and_every_move_is_counted(
    world: World, queue: QueueName, stranded: Callable[[World, QueueName], TaskId], step: str, after: bool
) -> None:
    task = stranded(world, queue)
    given = seen(world, queue, task)
    world.lose_a_step(step, after_its_effect=after)
    counted = list(STEPS).index(step) + after > list(STEPS).index("enqueue")
    if step == "move to the front":
        assert world.leader.requeue(given, queue, WHY)
    else:
        with pytest.raises(TaskServerUnavailable):
            world.leader.requeue(given, queue, WHY)
        assert seen(world, queue, task).requeues == counted
    if task not in world.leader.backlogs([queue])[queue].task_ids:
        world.let_time_pass()
        assert world.leader.requeue(seen(world, queue, task), queue, WHY)
        counted += 1
    assert world.leader.backlogs([queue])[queue].task_ids == (task,)
    shown = world.snapshot(task)
    assert (shown.status, shown.waiting, shown.requeues, shown.rescue) == ("queued", True, counted, WHY)


def test_a_running_task_whose_entry_waits_is_queued_again_unspoiled(world: World, queue: QueueName) -> None:
    task = enqueued(world, queue)
    run_again(world, task)  # started without a pull: the server leaves the entry in the queue
    assert world.leader.requeue(seen(world, queue, task), queue, WHY)
    shown = world.snapshot(task)
    assert (shown.status, shown.waiting, shown.rescue, shown.enqueue_status) == ("queued", True, WHY, "in_progress")


def test_the_count_goes_up_with_every_run_and_outlives_reset_and_enqueueing(world: World, queue: QueueName) -> None:
    task = running(world, queue)
    for expected in (1, 2, 3):
        assert world.leader.requeue(seen(world, queue, task), queue, WHY)
        assert world.get_next_task(queue) == task
        run_again(world, task, OTHER)
        assert seen(world, queue, task).requeues == expected
    world.stopped(task)
    world.reset(task)
    world.enqueue(task, queue)
    assert seen(world, queue, task).requeues == 3


@pytest.mark.parametrize("stranded", [in_limbo, running])
def test_a_task_given_up_is_failed_with_the_reason_and_starts_afresh_when_enqueued_again(
    world: World, queue: QueueName, stranded: Callable[[World, QueueName], TaskId]
) -> None:
    task = stranded(world, queue)
    assert world.leader.requeue(seen(world, queue, task), queue, WHY)
    assert world.get_next_task(queue) == task
    assert world.leader.fail_task(seen(world, queue, task), "It was put back 3 times.")
    shown = world.snapshot(task)
    assert (shown.status, shown.rescue) == ("failed", "It was put back 3 times.")
    world.enqueue(task, queue)
    assert seen(world, queue, task).requeues == 0


def test_opting_out_is_a_tag_on_the_task_or_on_the_queue(world: World, queue: QueueName) -> None:
    task = in_limbo(world, queue)
    assert seen(world, queue, task).tags == ()
    assert world.leader.backlogs([queue])[queue].tags == ()
    world.set_tags(task, ["mine", NO_RESCUE_TAG])
    world.set_queue_tags(queue, [NO_RESCUE_TAG])
    assert seen(world, queue, task).tags == ("mine", NO_RESCUE_TAG)
    assert world.leader.backlogs([queue])[queue].tags == (NO_RESCUE_TAG,)


def test_counting_leaves_peoples_tags_alone(world: World, queue: QueueName) -> None:
    task = in_limbo(world, queue)
    world.set_tags(task, ["mine"])
    assert world.leader.requeue(seen(world, queue, task), queue, WHY)
    assert seen(world, queue, task).tags == ("mine",)


# What only the real adapter can do wrong.


@pytest.mark.real
def test_a_sweep_is_one_request_after_the_backlogs_and_two_without(live: LiveWorld, queue: QueueName) -> None:
    enqueued(live, queue)
    live.leader.backlogs([queue])
    before = live.journal()[-1]["n"]
    for _ in range(2):
        assert len(live.leader.open_tasks([queue])) == 1
    assert [line["action"] for line in live.journal(before)] == ["tasks.get_all"] * 2
    leader = live.new_leader()
    assert len(leader.open_tasks([queue])) == 1
    assert [line["action"] for line in live.journal(before)][2:] == ["auth.login", "queues.get_all", "tasks.get_all"]
    leader.close()


@pytest.mark.real
def test_a_rescue_is_five_requests(live: LiveWorld, queue: QueueName) -> None:
    given = seen(live, queue, in_limbo(live, queue))
    before = live.journal()[-1]["n"]
    assert live.leader.requeue(given, queue, WHY)
    assert [line["action"] for line in live.journal(before)] == list(STEPS.values())


@pytest.mark.real
@pytest.mark.parametrize(("status", "error"), [(403, TaskServerRefused), (500, TaskServerUnavailable)])
def test_a_move_that_fails_again_and_again_is_not_counted(
    live: LiveWorld, queue: QueueName, status: int, error: type[TaskServerError]
) -> None:
    task = running(live, queue)
    given = seen(live, queue, task)
    live.inject(action=r"^tasks\.enqueue$", status=status)
    for _ in range(3):
        with pytest.raises(error):
            live.leader.requeue(given, queue, WHY)
    live.heal()
    assert seen(live, queue, task) == given


@pytest.mark.real
def test_more_open_tasks_than_fit_one_answer_are_all_read(live: LiveWorld, queue: QueueName) -> None:
    tasks = [live.create_task() for _ in range(501)]
    live.post("tasks.enqueue_many", ids=tasks, queue_name=queue)
    live.leader.backlogs([queue])
    before = live.journal()[-1]["n"]
    assert {task.task_id for task in live.leader.open_tasks([queue])} == set(tasks)
    assert [line["action"] for line in live.journal(before)] == ["tasks.get_all"] * 2


@pytest.mark.real
def test_hidden_tasks_are_open_too(live: LiveWorld, queue: QueueName) -> None:
    task = TaskId(live.post("tasks.create", name="step", type="controller", system_tags=["hidden"])["id"])
    live.enqueue(task, queue)
    assert seen(live, queue, task).task_id == task


@pytest.mark.real
def test_a_task_that_waits_although_it_looked_like_limbo_is_moved_and_not_spoiled(
    live: LiveWorld, queue: QueueName
) -> None:
    task = in_limbo(live, queue)
    given = seen(live, queue, task)
    enqueued(live, queue)
    live.post("queues.add_task", queue=live.queue_id(queue), task=task)  # no news for the task itself
    assert live.leader.requeue(given, queue, WHY)
    assert live.leader.backlogs([queue])[queue].task_ids[0] == task
    shown = live.snapshot(task)
    assert (shown.reason, shown.enqueue_status, shown.requeues) == ("", "created", 0)


@pytest.mark.real
def test_a_system_tag_that_somebody_else_set_stays(live: LiveWorld, queue: QueueName) -> None:
    task = in_limbo(live, queue)
    live.post("tasks.update", task=task, system_tags=["archived"])
    assert live.leader.requeue(seen(live, queue, task), queue, WHY)
    (shown,) = live.post("tasks.get_all", id=[task], only_fields=["system_tags"], search_hidden=True)["tasks"]
    assert sorted(shown["system_tags"]) == ["archived", f"scaler-requeued:1:{task[:8]}"]


#: A task's script writes all that may lie where the count is kept; the clone is what a person makes of it.
SDK_RUN = """
import sys
from clearml import Task
task = Task.get_task(sys.argv[1])
task.mark_started(force=True)
task.set_tags(["only this"])
task.add_tags(["and this"])
task.set_parameters({"lr": 1})
task.set_user_properties(note="mine")
task._set_runtime_properties({"progress": "5"})
task.set_archived(True)
task.set_archived(False)
print("clone", Task.clone(task).id)
"""


@pytest.mark.real
def test_the_count_outlives_all_that_the_sdk_writes_and_a_clone_has_none(
    live: LiveWorld, api: ClearmlApiProcess, queue: QueueName
) -> None:
    task = running(live, queue)
    assert live.leader.requeue(seen(live, queue, task), queue, WHY)
    assert live.get_next_task(queue) == task
    keys = {"CLEARML_API_ACCESS_KEY": api.access_key, "CLEARML_API_SECRET_KEY": api.secret_key}
    hosts = {f"CLEARML_{kind}_HOST": api.url for kind in ("API", "WEB", "FILES")}
    ran = subprocess.run(
        [sys.executable, "-c", SDK_RUN, task],
        env={**os.environ, **keys, **hosts},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    run = seen(live, queue, task)
    assert (run.requeues, set(run.tags)) == (1, {"only this", "and this"})
    clone = TaskId(ran.stdout.split("clone ")[1].split()[0])
    live.enqueue(clone, queue)
    assert seen(live, queue, clone).requeues == 0
