"""The text: nothing wraps badly at any width, and what matters is there."""

from __future__ import annotations

import pytest

from scaler_plugin.coordination.events import Event
from scaler_plugin.core.model import InstanceId, Node, NodeIdentity, NodeRole, NodeState, Problem, SlotState
from scaler_plugin.status.render import render
from scaler_plugin.status.report import StatusReport
from scaler_plugin.status.wording import duration

from .made_up import NOW, large_cluster, node, report, slot, task_id, view


def text(made: StatusReport, width: int = 80, **how: bool) -> str:
    return "\n".join(line.plain for line in render(made, width, **how))


@pytest.mark.parametrize("size", [0, 3, 30, 300])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 200, 300])
def test_no_line_is_longer_than_the_terminal_or_ends_in_blanks(size: int, width: int) -> None:
    made = report(*large_cluster(size))
    for line in [*render(made, width, list_all=True), *render(made, width, brief=True)]:
        assert line.cell_len <= width
        assert line.plain == line.plain.rstrip()


def test_wide_characters_count_as_two_columns() -> None:
    wide = node(1, slots=(slot(SlotState.BUSY, 5),), reason="队列" * 60, node_state=NodeState.DRAINING)
    for line in render(report(view(), wide), 80):
        assert line.cell_len <= 80


def test_at_80_columns_every_node_shows_all_that_is_asked_for_with_a_short_task() -> None:
    shown = text(report(*large_cluster(300)))
    line = next(line for line in shown.splitlines() if "i-0aa00000000000015" in line)
    assert line.split()[:5] == ["i-0aa00000000000015", "m5.large", "od", "1a", "interrupted"]
    assert line.endswith(f"{task_id(21)[:8]}…")


def test_at_160_columns_task_ids_and_zones_are_whole() -> None:
    shown = text(report(*large_cluster(3)), 160)
    assert task_id(1) in shown
    assert "us-east-1b" in shown


def test_the_first_lines_say_who_leads_what_waits_and_what_runs() -> None:
    lines = text(report(view(waiting=2, oldest_s=2520), node(1, SlotState.BUSY), node(2))).splitlines()
    assert lines[0].startswith("demo  leader i-0aa00000000000000 for 3h 12m, term 7")
    assert lines[1] == "2 tasks waiting, the oldest for 42m · 2 of 60 instances: 1 busy, 1 idle"


def test_without_a_leader_the_second_line_says_from_which_term_the_figures_are() -> None:
    assert text(report(view(), leader=None)).splitlines()[1] == "no leader: figures are from term 7"


def test_a_new_leader_without_a_view_of_its_own_says_whose_figures_are_shown() -> None:
    assert "those of queues are from term 6" in text(report(view(term=6)))


def test_problems_come_before_everything_that_is_a_table_and_say_what_to_do() -> None:
    shown = text(report(*large_cluster(30)))
    assert shown.index("PROBLEMS") < shown.index("→") < shown.index("QUEUES") < shown.index("POOLS")


def test_under_a_queue_stands_why_nothing_is_launched_without_repeating_a_problem_above() -> None:
    error = "EC2 refused RunInstances for pool cpu: there is no capacity at all in this zone."
    problem = Problem("pool cpu", f"Launching failed 2 times in a row: {error}", "It tries again.", NOW)
    made = report(view(waiting=3, unserved=f"Pool cpu pauses after a failed launch: {error}", problems=(problem,)))
    assert "    Pool cpu pauses after a failed launch: see the problem above." in text(made).splitlines()


def test_nodes_with_the_same_problem_share_one_entry() -> None:
    shown = text(report(view(), *(node(n, SlotState.DOWN, 60.0 + n) for n in range(9))))
    assert shown.count("is down and did not come back") == 1
    assert "and 6 others" in shown


def test_the_end_of_a_failed_starts_console_is_shown_and_more_of_it_with_verbose() -> None:
    console = "\n".join(f"step {n}" for n in range(20))
    made = report(view(), Event(NOW - 5, "start_failed", "i-1", "Instance i-1 did not register.", console))
    short, long = text(made), text(made, verbose=True)
    assert "| step 19" in short
    assert "| step 3" not in short
    assert "17 lines before" in short
    assert "| step 3" in long


def test_what_comes_from_other_programs_cannot_steer_the_terminal() -> None:
    made = report(
        view(), Event(NOW - 5, "start_failed", "i-1", "Instance i-1\x1b]0;title\x07 hung.", "\x1b[2J\x1b[31mred")
    )
    shown = text(made)
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "| red" in shown


def test_a_large_cluster_sums_up_its_busy_nodes_unless_all_are_asked_for() -> None:
    made = report(*large_cluster(300))
    assert "181 busy nodes, the longest for 3h 3m (--all lists them)" in text(made)
    assert "more idle nodes" in text(made)
    everything = text(made, list_all=True)
    assert all(node.instance_id in everything for node in made.nodes)


def test_ten_thousand_nodes_are_some_dozens_of_lines() -> None:
    assert len(render(report(*large_cluster(10_000)), 80)) < 120


def test_a_node_with_several_slots_has_a_line_for_each() -> None:
    four = node(1, slots=tuple(slot(SlotState.BUSY if i else SlotState.IDLE, 60, i, i) for i in range(4)))
    lines = text(report(view(), four), 160).splitlines()
    assert sum(1 for line in lines if line.startswith("    slot ")) == 4
    assert any("busy 3/4" in line for line in lines)


def test_a_long_name_of_a_standby_does_not_cost_the_others_their_columns() -> None:
    standby = Node(NodeIdentity("demo", InstanceId("standby-" + "x" * 50), NodeRole.STANDBY), NodeState.UP, NOW - 5)
    shown = text(report(view(), standby, node(1)))
    assert "m5.large" in shown
    assert "i-0aa00000000000001" in shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (312, "5m 12s"),
        (2520, "42m"),
        (3600, "1h"),
        (11520, "3h 12m"),
        (90000, "1d 1h"),
        (86400 * 120, "120d"),
        (None, ""),
    ],
)
def test_durations_read_as_people_say_them(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown
