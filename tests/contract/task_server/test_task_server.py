"""The contract of :class:`~scaler_plugin.core.ports.TaskServer`, held by the real adapter and by the in-memory server.

The real adapter speaks to the API stand-in, which is itself held to recordings of the real server. What a rescue needs of it is
in ``test_task_rescue``; ``test_task_lives`` compares the two servers step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scaler_plugin.core.model import QueueName, WorkerId
from scaler_plugin.core.ports import TaskServer
from scaler_plugin.errors import TaskServerRefused, TaskServerUnavailable
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess

from ...waiting import until
from .worlds import LiveWorld, World

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own, of pyparsing

#: Everything that means something in a regular expression, and letters that are not ASCII.
SPECIAL = [
    QueueName(name) for name in ("gpu.a100", "gpuXa100", "a|b|c", "(cpu)", "x+y*", "^top$", "q[0]", "ende ü", "\\d{3}")
]


def test_an_unknown_queue_is_absent(world: World, queue: QueueName) -> None:
    world.leader.create_queue(queue)
    backlogs = world.leader.backlogs([queue, QueueName("nowhere to be found")])
    assert {name: len(backlog) for name, backlog in backlogs.items()} == {queue: 0}
    assert backlogs[queue].oldest_since is None


def test_creating_a_queue_twice_leaves_it_as_it_is(world: World, queue: QueueName) -> None:
    world.leader.create_queue(queue)
    task = world.create_task()
    world.enqueue(task, queue)
    world.leader.create_queue(queue)
    assert world.leader.backlogs([queue])[queue].task_ids == (task,)


def test_a_queue_name_that_clearml_does_not_take_is_refused(world: World) -> None:
    with pytest.raises(TaskServerRefused, match=r"refused queues\.create .*too short") as raised:
        world.leader.create_queue(QueueName("ab"))
    assert raised.value.subcode == 800


def test_tasks_wait_in_the_order_in_which_they_will_be_pulled(world: World, queue: QueueName) -> None:
    tasks = [world.create_task() for _ in range(5)]
    for task in reversed(tasks):
        world.enqueue(task, queue)
        world.let_time_pass()
    assert world.leader.backlogs([queue])[queue].task_ids == tuple(reversed(tasks))
    assert world.get_next_task(queue) == tasks[-1]
    assert world.leader.backlogs([queue])[queue].task_ids == tuple(reversed(tasks[:-1]))


def test_a_queue_tells_of_a_task_that_came_and_went_between_two_looks(world: World, queue: QueueName) -> None:
    world.enqueue(world.create_task(), queue)
    world.get_next_task(queue)
    before = world.leader.backlogs([queue])[queue]
    world.let_time_pass()
    world.enqueue(world.create_task(), queue)
    world.get_next_task(queue)
    after = world.leader.backlogs([queue])[queue]
    assert (len(before), len(after)) == (0, 0)
    assert before.last_added_at is not None
    assert after.last_added_at is not None
    assert after.last_added_at > before.last_added_at


def test_the_oldest_wait_is_that_of_the_tasks_still_there(world: World, queue: QueueName) -> None:
    for _ in range(2):
        world.enqueue(world.create_task(), queue)
        world.let_time_pass()
    first = world.leader.backlogs([queue])[queue].oldest_since
    world.get_next_task(queue)
    second = world.leader.backlogs([queue])[queue].oldest_since
    assert first is not None
    assert second is not None
    assert first < second


def test_names_are_taken_literally(world: World) -> None:
    for name in SPECIAL:
        world.leader.create_queue(name)
        world.enqueue(world.create_task(), name)
    assert set(world.leader.backlogs(SPECIAL)) == set(SPECIAL)
    for name in SPECIAL:
        assert [len(backlog) for backlog in world.leader.backlogs([name]).values()] == [1], name


def test_a_name_that_is_part_of_another_is_not_mistaken_for_it(world: World, queue: QueueName) -> None:
    longer = [QueueName(f"{queue} two"), QueueName(f"my {queue}"), QueueName(queue.upper())]
    for name in longer:
        world.enqueue(world.create_task(), name)
    assert world.leader.backlogs([queue]) == {}
    assert set(world.leader.backlogs(longer)) == set(longer)


def test_several_hundred_queues_are_read_at_once(world: World) -> None:
    names = [QueueName(f"one of many {number:03d}") for number in range(450)]
    for name in names:
        world.leader.create_queue(name)
    task = world.create_task()
    world.enqueue(task, names[-1])
    backlogs = world.leader.backlogs(names)
    assert set(backlogs) == set(names)
    assert backlogs[names[-1]].task_ids == (task,)


def test_workers_are_listed_with_task_and_last_report(world: World, queue: QueueName) -> None:
    world.leader.create_queue(queue)
    idle, busy, silent = (WorkerId(f"{queue}:cpu:t3.micro:i-{name}") for name in ("idle", "busy", "silent"))
    task = world.create_task()
    world.started(task)
    world.register_worker(silent, [queue])
    world.status_report(idle)
    world.status_report(busy, task)
    listed = {worker.worker_id: worker for worker in world.leader.workers()}
    assert [listed[worker].task_id for worker in (idle, busy, silent)] == [None, task, None]
    assert [listed[worker].last_report_at is None for worker in (idle, busy, silent)] == [False, False, True]


def test_a_report_without_a_task_clears_the_workers_task(world: World, queue: QueueName) -> None:
    worker, task = WorkerId(f"{queue}:w"), world.create_task()
    world.status_report(worker, task)
    world.status_report(worker)
    assert [w.task_id for w in world.leader.workers() if w.worker_id == worker] == [None]


def test_unregistering_takes_a_worker_off_the_list_and_an_unknown_one_is_no_error(
    world: World, queue: QueueName
) -> None:
    worker = WorkerId(f"{queue}:w")
    world.status_report(worker)
    world.leader.unregister_worker(worker)
    world.leader.unregister_worker(worker)
    assert worker not in [w.worker_id for w in world.leader.workers()]


@pytest.mark.parametrize("after_its_effect", [False, True])
def test_a_lost_answer_is_unavailable_and_the_next_call_works(
    world: World, queue: QueueName, after_its_effect: bool
) -> None:
    world.lose_the_next_call(after_its_effect=after_its_effect)
    with pytest.raises(TaskServerUnavailable, match="next pass tries again"):
        world.leader.create_queue(queue)
    assert (queue in world.leader.backlogs([queue])) is after_its_effect


def test_wrong_keys_are_refused_with_a_sentence(world: World, queue: QueueName) -> None:
    stranger = world.leader_with_wrong_keys()
    calls: list[Callable[[TaskServer], object]] = [lambda s: s.backlogs([queue]), lambda s: s.workers()]
    for call in calls:
        with pytest.raises(TaskServerRefused, match=r"does not accept the credentials .*401/22.* new") as raised:
            call(stranger)
        assert raised.value.subcode == 22


# What only the real adapter can do wrong.


@pytest.mark.real
def test_reading_the_backlogs_is_one_request(live: LiveWorld, queue: QueueName) -> None:
    names = [QueueName(f"{queue} {number}") for number in range(30)]
    for name in names:
        live.leader.create_queue(name)
    before = live.journal()[-1]["n"]
    for _ in range(3):
        assert len(live.leader.backlogs(names)) == len(names)
    assert [line["action"] for line in live.journal(before)] == ["queues.get_all"] * 3


@pytest.mark.real
def test_hidden_queues_are_read_as_well(live: LiveWorld, queue: QueueName) -> None:
    live.post("queues.create", name=queue, system_tags=["k8s-glue"])
    assert queue in live.leader.backlogs([queue])


@pytest.mark.real
def test_a_refused_log_in_says_host_source_and_remedy_but_no_secret(live: LiveWorld, api: ClearmlApiProcess) -> None:
    with pytest.raises(TaskServerRefused) as raised:
        live.leader_with_wrong_keys().workers()
    text = str(raised.value)
    assert api.url in text
    assert "file:/etc/keys" in text
    assert "Create new ones" in text
    assert "wrong-secret" not in text


@pytest.mark.real
@pytest.mark.parametrize("status", [500, 503])
def test_a_server_error_is_reported_at_once(live: LiveWorld, status: int) -> None:
    live.leader.workers()
    before = live.journal()[-1]["n"]
    live.inject(action="workers.get_all", status=status, message="Out of disk")
    with pytest.raises(TaskServerUnavailable, match=f"cannot serve workers.get_all now .{status}/0: Out of disk"):
        live.leader.workers()
    assert [line["status"] for line in live.journal(before)] == [status]
    live.heal()
    live.leader.workers()


@pytest.mark.real
def test_a_server_that_hangs_is_left_at_the_time_limit(live: LiveWorld) -> None:
    leader = live.new_leader(timeout_s=3.0)
    leader.workers()
    live.inject(action="workers.get_all", hang_s=15.0, times=1)
    with pytest.raises(TaskServerUnavailable, match=r"did not answer within 3 s \(workers\.get_all\)"):
        leader.workers()
    leader.close()


@pytest.mark.real
def test_a_server_that_is_gone_is_unavailable_and_back_again_after_its_restart(
    tmp_path: Path, queue: QueueName
) -> None:
    with ClearmlApiProcess(tmp_path, faults=True) as api:
        world = LiveWorld(api)
        world.leader.create_queue(queue)
        api.kill()
        with pytest.raises(TaskServerUnavailable, match=r"refused the connection|broke off the connection"):
            world.leader.backlogs([queue])
        with pytest.raises(TaskServerUnavailable, match=f"{api.url} refused the connection"):
            world.leader.backlogs([queue])
        api.start()
        assert queue in world.leader.backlogs([queue])
        world.close()


@pytest.mark.real
def test_a_token_that_runs_out_is_renewed(
    live: LiveWorld, api: ClearmlApiProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The SDK is made to believe that its one-second token lives on, so that the server has to refuse it."""
    conf = tmp_path / "clearml.conf"
    conf.write_text("api.auth { request_token_expiration_sec: 1, token_expiration_threshold_sec: -3600 }\n")
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(conf))
    before = live.journal()[-1]["n"] if live.journal() else 0
    leader = live.new_leader()

    def is_refused() -> bool:
        leader.workers()
        return any(line["status"] == 401 for line in live.journal(before))

    until(is_refused, "the server refuses the token")
    actions = [(line["action"], line["status"]) for line in live.journal(before)]
    assert actions[-3:] == [("workers.get_all", 401), ("auth.login", 200), ("workers.get_all", 200)]
    leader.close()
