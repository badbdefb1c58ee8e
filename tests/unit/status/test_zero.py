"""A cluster at zero: no problem as long as the probes come, and one that names the cure when they do not."""

from __future__ import annotations

from dataclasses import replace

from scaler_plugin.coordination.events import Event
from scaler_plugin.status.render import render
from scaler_plugin.status.report import StatusReport

from .made_up import NOW, node, report, view

EVERY_S = 300.0


def at_zero(looked_ago_s: float, *more: object) -> StatusReport:
    return report(replace(view(), since=NOW - looked_ago_s, probe_every_s=EVERY_S), *more, leader=None)


def first_line(made: StatusReport) -> str:
    return render(made, 120)[0].plain


def test_a_cluster_at_zero_is_no_problem_and_says_when_a_probe_looked_last() -> None:
    made = at_zero(130.0)
    assert made.problems == ()
    assert "at zero: a probe looks for tasks every 5m, the last 2m 10s ago" in first_line(made)
    assert not any("no leader" in line.plain for line in render(made, 120))


def test_probes_that_do_not_come_are_the_first_problem() -> None:
    made = at_zero(3000.0)
    assert made.zero is not None
    assert made.zero.overdue
    problem = made.problems[0]
    assert (problem.about, problem.current) == ("probe", True)
    assert "no probe has looked for tasks for 50m; one should every 5m" in problem.what
    assert "scaler-sidecar wake scaler.yaml" in problem.what_to_do


def test_one_refused_probe_is_none_of_it() -> None:
    assert at_zero(EVERY_S * 2 + 60.0).problems == ()


def test_a_worker_that_led_for_long_and_has_just_left_counts_from_its_last_event() -> None:
    made = at_zero(40_000.0, Event(NOW - 20.0, "node_retires", "i-1", "Idle for 10 s."))
    assert made.problems == ()
    assert made.zero is not None
    assert made.zero.last_look_s == 20.0


def test_without_a_schedule_or_with_a_node_or_a_leader_it_is_not_at_zero() -> None:
    assert report(view(), leader=None).zero is None
    assert at_zero(10.0, node(1)).zero is None
    assert report(replace(view(), probe_every_s=EVERY_S), node(1)).zero is None
