"""What the in-memory ClearML server adds to the contract: faults of one client, passing time, history."""

from __future__ import annotations

import pytest

from scaler_plugin.clearml_server.memory import (
    SERVER,
    SILENT_TASK_S,
    WATCHDOG_ROUND_S,
    WORKER_TIMEOUT_S,
    MemoryTaskServer,
)
from scaler_plugin.clearml_server.memory_client import Fault
from scaler_plugin.core.model import QueueName, TaskStatus, WorkerId
from scaler_plugin.errors import TaskServerRefused, TaskServerUnavailable
from scaler_plugin.simulation.clock import VirtualClock

DEFAULT = QueueName("default")
WORKER = WorkerId("demo:cpu:t3.micro:i-1")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def server(clock: VirtualClock) -> MemoryTaskServer:
    server = MemoryTaskServer(clock)
    server.create_queue(DEFAULT)
    return server


def test_a_worker_disappears_exactly_600_s_after_its_last_report(server: MemoryTaskServer, clock: VirtualClock) -> None:
    task = server.create_task()
    server.status_report(WORKER, task)
    clock.advance(WORKER_TIMEOUT_S - 0.001)
    assert [(w.worker_id, w.task_id) for w in server.workers()] == [(WORKER, task)]
    clock.advance(0.001)
    assert server.workers() == ()


def test_a_report_after_the_expiry_registers_the_worker_anew(server: MemoryTaskServer, clock: VirtualClock) -> None:
    server.register_worker(WORKER, timeout_s=5.0)
    clock.advance(6.0)
    server.status_report(WORKER)
    clock.advance(WORKER_TIMEOUT_S - 1)
    assert [w.worker_id for w in server.workers()] == [WORKER]


def test_the_watchdog_stops_a_silent_task_and_does_not_enqueue_it(
    server: MemoryTaskServer, clock: VirtualClock
) -> None:
    silent, alive = server.create_task("silent"), server.create_task("alive")
    for task in (silent, alive):
        server.enqueue(task, DEFAULT)
        server.started(server.get_next_task(DEFAULT) or task)
    clock.advance(SILENT_TASK_S - WATCHDOG_ROUND_S)
    assert server.run_watchdog() == ()
    server.ping(alive)
    clock.advance(WATCHDOG_ROUND_S)
    assert server.run_watchdog() == (silent,)
    assert server.task(silent).status is TaskStatus.STOPPED
    assert server.task(silent).history[-1].by == SERVER
    assert len(server.backlogs([DEFAULT])[DEFAULT]) == 0
    assert server.task(alive).status is TaskStatus.IN_PROGRESS


def test_history_says_who_did_what_and_when(server: MemoryTaskServer, clock: VirtualClock) -> None:
    person, agent = server.client("ada"), server.client("i-1")
    task = person.create_task()
    clock.advance(1)
    person.enqueue(task, DEFAULT)
    clock.advance(1)
    assert agent.get_next_task(DEFAULT) == task
    agent.started(task)
    clock.advance(1)
    agent.completed(task, reason="worker execution done")
    start = server.task(task).created_at
    assert [(change.at - start, change.status.value, change.by) for change in server.task(task).history] == [
        (0, "created", "ada"),
        (1, "queued", "ada"),
        (2, "in_progress", "i-1"),
        (3, "completed", "i-1"),
    ]


def test_one_client_can_be_cut_off_while_others_work(server: MemoryTaskServer) -> None:
    cut_off, other = server.client("i-1"), server.client("i-2")
    cut_off.fault = Fault.UNAVAILABLE_BEFORE
    with pytest.raises(TaskServerUnavailable, match="i-1"):
        cut_off.create_queue(QueueName("new-queue"))
    assert server.backlogs([QueueName("new-queue")]) == {}
    other.create_queue(QueueName("new-queue"))
    cut_off.fault = Fault.NONE
    assert QueueName("new-queue") in cut_off.backlogs([QueueName("new-queue")])


def test_a_pull_whose_answer_is_lost_leaves_the_task_in_limbo(server: MemoryTaskServer) -> None:
    task = server.create_task()
    server.enqueue(task, DEFAULT)
    agent = server.client("i-1")
    agent.next_faults.append(Fault.UNAVAILABLE_AFTER)
    with pytest.raises(TaskServerUnavailable):
        agent.get_next_task(DEFAULT)
    assert server.in_limbo(task)
    assert agent.get_next_task(DEFAULT) is None
    server.enqueue(task, DEFAULT)
    assert not server.in_limbo(task)


def test_keys_the_server_does_not_know_are_refused_with_the_real_servers_code(server: MemoryTaskServer) -> None:
    client = server.client("leader")
    client.fault = Fault.BAD_CREDENTIALS
    with pytest.raises(TaskServerRefused, match="leader") as raised:
        client.backlogs([DEFAULT])
    assert raised.value.subcode == 22


def test_a_slow_call_takes_its_time_and_one_too_slow_loses_its_answer(
    server: MemoryTaskServer, clock: VirtualClock
) -> None:
    client = server.client("leader")
    client.wait = clock.advance
    client.delay_s = 3.0
    before = clock.now()
    client.create_queue(QueueName("slow-queue"))
    assert clock.now() - before == 3.0
    client.delay_s = 60.0
    with pytest.raises(TaskServerUnavailable):
        client.create_queue(QueueName("slower-queue"))
    assert clock.now() - before == 13.0
    assert QueueName("slower-queue") in server.backlogs([QueueName("slower-queue")])


def test_a_long_day_of_tasks_passes_through_one_queue(server: MemoryTaskServer, clock: VirtualClock) -> None:
    tasks = [server.create_task() for _ in range(50_000)]
    for task in tasks:
        server.enqueue(task, DEFAULT)
    assert server.backlogs([DEFAULT])[DEFAULT].task_ids == tuple(tasks)
    for task in tasks:
        assert server.get_next_task(DEFAULT) == task
        server.started(task)
        clock.advance(1)
        server.completed(task)
    assert all(task.status is TaskStatus.COMPLETED for task in server.tasks())
