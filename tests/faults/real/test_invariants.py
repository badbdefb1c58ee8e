"""The invariants can fail: each is shown a record in which just its promise is broken, beside one in which all are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.core.view import View

from .cluster import GONE_WITHIN_S, make_config
from .invariants import check_all
from .record import Change, Instance, LaunchCall, Record, Run, Written

CONFIG = make_config(max_instances=2)
KEYS = Keys(CONFIG.prefix, CONFIG.cluster)
TASK = "task-1"


def view(term: int) -> str:
    return encode(View(term, "a", 1, 2, True, (), ()))


def leads(revision: int, created: int, candidate: str = "a") -> Written:
    return Written(revision, KEYS.leader, created, json.dumps({"candidate": candidate, "since": float(revision)}))


def kept() -> Record:
    """A task that ran once on the one instance that was asked for."""
    steps = [("created", "created"), ("created", "queued"), ("queued", "in_progress"), ("in_progress", "completed")]
    actions = ["tasks.create", "tasks.enqueue", "tasks.started", "tasks.completed"]
    return Record(
        statuses={TASK: "completed"},
        changes=[Change(float(n), TASK, actions[n], old, new, "w1") for n, (old, new) in enumerate(steps)],
        runs=[Run(TASK, "i-1", 10.0, 20.0, ended=True)],
        instances={"i-1": Instance("i-1", "cpu", "l-1", 5.0, leaving=25.0, terminated=27.0)},
        launch_calls=[LaunchCall(5.0, "10.0.0.1", "token-1", "l-1", 1, ("i-1",))],
        histories=[
            [leads(2, 2), Written(3, KEYS.view, 3, view(2)), Written(4, KEYS.leader, 0, None), leads(5, 5, "b")]
        ],
    )


def lost(record: Record) -> None:
    record.statuses[TASK] = "queued"  # and in no queue


def stuck(record: Record) -> None:
    record.statuses[TASK] = "in_progress"


def run_twice_at_once(record: Record) -> None:
    record.runs.append(Run(TASK, "i-2", 15.0, 22.0, ended=True))


def started_by_two(record: Record) -> None:
    record.changes.insert(3, Change(2.5, TASK, "tasks.started", "in_progress", "in_progress", "w2"))


def killed_and_run_again(record: Record) -> None:
    record.runs[0].ended = False
    record.runs.append(Run(TASK, "i-2", 30.0, 40.0, ended=True))


def run_again_after_its_end(record: Record) -> None:
    record.runs.append(Run(TASK, "i-2", 30.0, 40.0, ended=True))


def stopped_on_the_way(record: Record) -> None:
    record.changes.insert(3, Change(2.5, TASK, "tasks.stopped", "in_progress", "stopped", "w1"))


def completed_without_an_end(record: Record) -> None:
    record.runs[0].ended = False


def launched_one_too_many(record: Record) -> None:
    record.instances["i-2"] = replace(record.instances["i-1"], id="i-2")


def one_token_twice(record: Record) -> None:
    record.launch_calls.append(replace(record.launch_calls[0], instance_ids=("i-2",)))


def above_the_maximum(record: Record) -> None:
    for name in ("i-2", "i-3"):
        record.instances[name] = replace(record.instances["i-1"], id=name, launch=f"l-{name}")


def left_running(record: Record) -> None:
    record.instances["i-1"].terminated = None


def ended_late(record: Record) -> None:
    record.instances["i-1"].terminated = 20.0 + GONE_WITHIN_S + 1


def written_out_of_term(record: Record) -> None:
    record.histories[0].append(Written(6, KEYS.view, 3, view(2)))


def written_between_terms(record: Record) -> None:
    record.histories[0].insert(3, Written(4, KEYS.view, 3, view(2)))


def two_in_one_term(record: Record) -> None:
    record.histories[0].insert(1, leads(3, 2, "b"))


def test_a_record_in_which_every_promise_was_kept_passes() -> None:
    check_all(kept(), CONFIG, GONE_WITHIN_S)


def test_a_task_that_the_scenario_itself_disturbs_may_run_again() -> None:
    record = kept()
    killed_and_run_again(record)
    check_all(record, CONFIG, GONE_WITHIN_S, disturbed={TASK})


@pytest.mark.parametrize(
    "breaks",
    [
        lost,
        stuck,
        run_twice_at_once,
        started_by_two,
        killed_and_run_again,
        run_again_after_its_end,
        stopped_on_the_way,
        completed_without_an_end,
        launched_one_too_many,
        one_token_twice,
        above_the_maximum,
        left_running,
        ended_late,
        written_out_of_term,
        written_between_terms,
        two_in_one_term,
    ],
)
def test_a_broken_promise_is_noticed(breaks: Callable[[Record], None]) -> None:
    record = kept()
    breaks(record)
    with pytest.raises(AssertionError):
        check_all(record, CONFIG, GONE_WITHIN_S)
