"""Answers that no ClearML server should give: nothing but our own errors leaves the adapter, and one bad item spoils no list."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.clearml_server.api import ClearmlServer
from scaler_plugin.core.model import QueueName, ServerTask, TaskId, TaskStatus, WorkerId
from scaler_plugin.errors import TaskServerError, TaskServerUnavailable

from .scripted_server import Script, ScriptedServer, data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own, of pyparsing

QUEUE = QueueName("cpu-tasks")
AT = "2026-11-24T04:00:00.793000+00:00"
OPEN = (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)
GOOD_QUEUE = {"id": "q1", "name": QUEUE, "entries": [{"task": "t1", "added": AT}], "last_update": AT}
GOOD_TASK = {
    "id": "t1",
    "status": "in_progress",
    "status_changed": AT,
    "last_update": AT,
    "last_worker": "c:cpu:c5.large:i-1",
    "execution": {"queue": "q1"},
}
GIVEN = ServerTask(TaskId("t1"), TaskStatus.IN_PROGRESS, QUEUE, 1.0, 1.0)

CALLS: dict[str, Callable[[ClearmlServer], object]] = {
    "backlogs": lambda server: server.backlogs([QUEUE]),
    "open_tasks": lambda server: server.open_tasks([QUEUE]),
    "open_tasks_page": lambda server: server.open_tasks_page([QUEUE], OPEN, 0),
    "still_open": lambda server: server.still_open([QUEUE], [TaskId("t1")]),
    "requeue": lambda server: server.requeue(GIVEN, QUEUE, "why"),
    "fail_task": lambda server: server.fail_task(GIVEN, "why"),
    "find_task": lambda server: server.find_task(TaskId("t1")),
    "workers": lambda server: server.workers(),
}


def everywhere(items: Any) -> Any:
    """An answer that has the same under every key that we read."""
    return {"queues": items, "tasks": items, "workers": items}


#: ``data`` of an answer.
SHAPES: dict[str, Any] = {
    "a list": [1],
    "a text": "busy",
    "no list": everywhere({"a": 1}),
    "items that are numbers": everywhere([1, 2]),
    "items that are null": everywhere([None]),
    "empty items": everywhere([{}]),
    "items of numbers": everywhere(
        [
            {
                "id": 1,
                "name": 2,
                "entries": 3,
                "status": 4,
                "status_changed": 5,
                "last_update": 6,
                "execution": 7,
                "task": 8,
            }
        ]
    ),
    "items of lists": everywhere(
        [
            {
                "id": ["q1"],
                "name": [QUEUE],
                "entries": [[]],
                "status": [],
                "execution": [],
                "task": [],
                "last_update": [1],
            }
        ]
    ),
}


@pytest.fixture
def script() -> Iterator[Script]:
    server = ScriptedServer()
    yield server.script
    server.stop()


@pytest.fixture
def clearml(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ClearmlServer]:
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "no-such-clearml.conf"))
    server = ClearmlServer(script.url, "KEY", "secret", credentials_source="the test", timeout_s=5.0)
    yield server
    server.close()


def serve(script: Script, **documents: list[Any]) -> None:
    for kind in ("queues", "tasks", "workers"):
        script.replies[f"{kind}.get_all"] = [data({kind: documents.get(kind, [])})]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_is_answered_only_our_own_errors_leave_the_adapter(
    script: Script, clearml: ClearmlServer, call: str, shape: str
) -> None:
    for name in ("queues.get_all", "tasks.get_all", "workers.get_all", "tasks.enqueue", "tasks.update", "tasks.failed"):
        script.replies[name] = [data(SHAPES[shape])]
    with suppress(TaskServerError):  # none of the others
        CALLS[call](clearml)


def test_an_answer_that_is_not_understood_is_none_and_the_sentence_says_so(
    script: Script, clearml: ClearmlServer
) -> None:
    serve(script, queues=[GOOD_QUEUE])
    script.replies["tasks.get_all"] = [data({"tasks": [{**GOOD_TASK, "execution": {"queue": ["q1"]}}]})]
    with pytest.raises(TaskServerUnavailable, match="answer for a task is not understood"):
        clearml.find_task(TaskId("t1"))


def test_a_queue_that_is_not_understood_spoils_no_other_and_says_nothing_of_its_tasks(
    script: Script, clearml: ClearmlServer
) -> None:
    bad = {"id": "q2", "name": "bad-tasks", "entries": [{"added": AT}]}
    serve(script, queues=[bad, GOOD_QUEUE], tasks=[GOOD_TASK])
    backlogs = clearml.backlogs([QueueName("bad-tasks"), QUEUE])
    assert {name: backlog.task_ids for name, backlog in backlogs.items()} == {QUEUE: ("t1",)}


def test_a_time_that_is_not_understood_in_a_queue_costs_that_time_only(script: Script, clearml: ClearmlServer) -> None:
    odd = {**GOOD_QUEUE, "entries": [{"task": "t1", "added": 17}, {"task": "t2"}], "last_update": "yesterday"}
    serve(script, queues=[odd])
    backlog = clearml.backlogs([QUEUE])[QUEUE]
    assert (backlog.task_ids, backlog.oldest_since, backlog.last_added_at) == (("t1", "t2"), None, None)


def test_a_task_that_is_not_understood_spoils_no_other(script: Script, clearml: ClearmlServer) -> None:
    serve(
        script, queues=[GOOD_QUEUE], tasks=[{**GOOD_TASK, "id": None}, None, {**GOOD_TASK, "execution": 3}, GOOD_TASK]
    )
    assert [task.task_id for task in clearml.open_tasks([QUEUE])] == ["t1"]


def test_a_task_whose_times_are_not_understood_counts_as_changed_just_now(
    script: Script, clearml: ClearmlServer
) -> None:
    serve(script, queues=[GOOD_QUEUE], tasks=[{**GOOD_TASK, "last_update": None, "status_changed": 12}])
    began = time.time()
    (task,) = clearml.open_tasks([QUEUE])
    assert min(task.last_update_at, task.status_changed_at) >= began
    assert not clearml.requeue(task, QUEUE, "why"), "it is never as it was"


def test_a_worker_that_is_not_understood_is_in_doubt_and_spoils_no_other(
    script: Script, clearml: ClearmlServer
) -> None:
    odd = {"id": "c:cpu:c5.large:i-1", "task": 5, "last_report_time": {"$date": 3}}
    good = {"id": "c:cpu:c5.large:i-2", "last_report_time": AT}
    serve(script, workers=[{"task": {"id": "t"}}, odd, good])
    in_doubt, known = clearml.workers()
    assert (in_doubt.worker_id, in_doubt.last_report_at) == (WorkerId("c:cpu:c5.large:i-1"), None)
    assert in_doubt.task_id, "it may run one"
    assert (known.worker_id, known.task_id) == (WorkerId("c:cpu:c5.large:i-2"), None)


def test_a_queue_that_has_the_name_of_another_now_gives_its_tasks_that_name(
    script: Script, clearml: ClearmlServer
) -> None:
    former = QueueName("former-tasks")
    serve(script, queues=[{**GOOD_QUEUE, "name": former}], tasks=[GOOD_TASK])
    clearml.backlogs([former])
    serve(script, queues=[GOOD_QUEUE], tasks=[GOOD_TASK])
    clearml.backlogs([QUEUE])
    (task,) = clearml.open_tasks([QUEUE, former])
    assert task.queue == QUEUE
