"""The real ``clearml-agent``, of each generation, when the queues of its pool change while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.agent.pool_queues import announce_queues
from scaler_plugin.core.model import QueueName, SlotState

from .test_agent_daemon import QUICK, held_task

pytestmark = [pytest.mark.real, pytest.mark.slow]

NEW = QueueName("brand-new")


def test_an_idle_agent_serves_the_new_queues_within_seconds_in_the_same_process(node: Any) -> None:
    agent = node.start_agent()
    node.wait_for_state(SlotState.IDLE)
    idle_since = node.slot().since
    node.clearml.queue(NEW)
    announce_queues(node.state_dir, (NEW, QueueName("urgent")))
    dropped = node.clearml.enqueue(QUICK, "later")
    tasks = [node.clearml.enqueue(QUICK, queue) for queue in ("urgent", NEW)]
    for task in tasks:
        node.wait_for_status(task, "completed")
    node.wait_for_state(SlotState.IDLE)
    polls = node.polls()
    node.wait_for("three polls", lambda: node.polls() >= polls + 3)
    assert node.clearml.status(dropped) == "queued"
    assert agent.poll() is None
    assert node.slot().since > idle_since
    assert node.log.count("agent_starts_again_for_new_queues") == 1


def test_a_task_that_runs_is_not_disturbed(node: Any, tmp_path: Path) -> None:
    node.start_agent()
    node.wait_for_state(SlotState.IDLE)
    task = node.clearml.enqueue(held_task(tmp_path / "go"), "later")
    node.wait_for_status(task, "in_progress")
    node.clearml.queue(NEW)
    announce_queues(node.state_dir, (NEW,))
    next_task = node.clearml.enqueue(QUICK, NEW)
    assert node.slot().state is SlotState.BUSY
    (tmp_path / "go").touch()
    node.wait_for_status(task, "completed")
    node.wait_for_status(next_task, "completed")


def test_while_it_starts_again_the_slot_never_looks_dead_and_idle_time_goes_on(node: Any) -> None:
    node.start_agent()
    node.wait_for_state(SlotState.IDLE)
    idle_since, states = node.slot().since, set()
    node.clearml.queue(NEW)
    announce_queues(node.state_dir, (NEW,))

    def serves_it() -> bool:
        states.add(node.slot().state)
        return node.log.count("agent_starts_again_for_new_queues") == 1 and node.polls_since_restart() > 0

    node.wait_for("a poll after the restart", serves_it)
    assert states == {SlotState.IDLE}
    assert node.slot().since == idle_since


def test_an_agent_that_was_given_its_queues_by_hand_keeps_them(node: Any) -> None:
    node.start_agent("--queue", "urgent")
    node.wait_for_state(SlotState.IDLE)
    node.clearml.queue(NEW)
    announce_queues(node.state_dir, (NEW,))
    task = node.clearml.enqueue(QUICK, "urgent")
    node.wait_for_status(task, "completed")
    assert "agent_starts_again_for_new_queues" not in node.log
