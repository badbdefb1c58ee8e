"""Which problems the report lists, in which order, and that each says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.events import Event
from scaler_plugin.coordination.store import Entry
from scaler_plugin.core.model import InstanceId, LaunchId, NodeIdentity, NodeRole, NodeState, Problem, SlotState, TaskId
from scaler_plugin.errors import ConfigError
from scaler_plugin.leader.failed_start import failed_start
from scaler_plugin.node import failed_boot, health_gate
from scaler_plugin.node.setup import NodeSetup
from scaler_plugin.status.make_report import make_report
from scaler_plugin.status.reading import sort_records
from scaler_plugin.status.report import StatusReport

from .made_up import CONFIG, CPU, KEYS, NOW, entries, large_cluster, launch, node, report, view

AWS = '{"stack": "demo"}'
EC2_DOWN = Problem("EC2", "EC2 did not answer.", "It is asked again.", NOW - 30)


def failed(instance: str, ago_s: float, detail: str = "") -> Event:
    return Event(NOW - ago_s, "start_failed", instance, f"Instance {instance} did not register.", detail)


def refused(ago_s: float, pool: str = "cpu") -> Event:
    return Event(NOW - ago_s, "launch_refused", pool, f"Launching for pool {pool} failed: no capacity.")


def about(made: StatusReport) -> list[tuple[str, bool]]:
    return [(problem.about, problem.current) for problem in made.problems]


def test_a_healthy_cluster_has_no_problems() -> None:
    assert report(view(), node(1), node(2, SlotState.BUSY)).problems == ()


def test_every_problem_says_what_to_do() -> None:
    assert all(problem.what and problem.what_to_do for problem in report(*large_cluster(60), config=False).problems)


def test_the_leaders_problems_are_current_while_it_leads_and_may_be_over_afterwards() -> None:
    assert about(report(view(problems=(EC2_DOWN,)))) == [("EC2", True)]
    assert about(report(view(problems=(EC2_DOWN,)), leader=None)) == [("leader", True), ("EC2", False)]


def test_no_leader_comes_first_and_what_to_do_depends_on_whether_a_node_is_up() -> None:
    alone = report(view(), leader=None).problems[0]
    among_nodes = report(view(), node(1), leader=None).problems[0]
    for command in ("bootstrap first", "run --standby", "aws ec2 get-console-output"):
        assert command in alone.what_to_do
    assert "wake" not in alone.what_to_do, "the last leader's view says that there is no probe"
    assert "elect" in among_nodes.what_to_do


@pytest.mark.parametrize(("mode", "named", "not_named"), [("probe", "wake", "first"), ("standby", "first", "wake")])
def test_before_the_first_leader_only_what_starts_such_a_cluster_is_named(
    mode: str, named: str, not_named: str
) -> None:
    config = Entry(
        KEYS.config, CONFIG.replace('"demo",', f'"demo", "zero": {{"mode": "{mode}"}}, "aws": {AWS},', 1), 1, 1
    )
    (problem,) = make_report(sort_records((config,), KEYS), NOW).problems
    assert named in problem.what_to_do
    assert not_named not in problem.what_to_do
    assert "aws ec2 get-console-output" in problem.what_to_do


def test_a_start_that_failed_and_then_worked_is_over() -> None:
    told = failed("i-0aa00000000000001", 300)
    assert report(view(), node(1, age_s=200), told).problems == ()
    assert len(report(view(), node(1, age_s=400), told).problems) == 1


def test_of_an_instance_that_told_why_and_was_terminated_for_it_the_last_word_stands() -> None:
    end = Event(NOW - 50, "start_failed", "i-1", "Instance i-1 did not register; it was terminated. It said: No key.")
    (problem,) = report(view(), failed("i-1", 300), end).problems
    assert (problem.what, problem.times) == (end.sentence, 1)


@pytest.mark.parametrize("terminated", [False, True])
@pytest.mark.parametrize(
    ("failed_at", "advice"), [("boot", "Do what it says. While the instance lives"), ("gate", "health settings")]
)
def test_a_reason_that_the_instance_told_itself_is_not_followed_by_guesses_at_why_it_could_not(
    failed_at: str, advice: str, terminated: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[str] = []
    metadata, host = Mock(), Mock()
    metadata.instance_id.return_value = "i-1"
    monkeypatch.setattr(failed_boot, "tell", lambda *arguments: told.append(arguments[3]))
    monkeypatch.setattr(health_gate, "tell", lambda *arguments: told.append(arguments[3]))
    etcd = EtcdSettings(("etcd:2379",))
    if failed_at == "boot":
        error = ConfigError("The secret ssm:/a cannot be read.")
        failed_boot.tell_of_boot(etcd, KEYS, metadata, error, tmp_path, NOW - 60)
    else:
        identity = NodeIdentity("demo", InstanceId("i-1"), NodeRole.WORKER, CPU, "t3.micro")
        health_gate.give_up(NodeSetup(identity, etcd, "p"), host, "The disk is nearly full.", NOW - 60)
    event = Event(NOW - 60, "start_failed", "i-1", told[0])
    if terminated:
        failure = failed_start(Mock(), InstanceId("i-1"), "did not register; it was terminated", event)
        event = replace(event, sentence=failure.what)
    (problem,) = report(view(), event).problems
    assert advice in problem.what_to_do
    assert "Usual causes" not in problem.what_to_do


def test_the_wait_between_two_tries_of_an_instance_is_the_one_that_status_names() -> None:
    unit = (Path(__file__).parents[3] / "ami" / "units" / "scaler-bootstrap.service").read_text().splitlines()
    assert {"Restart=on-failure", "RestartSec=10"} <= set(unit)


def test_a_leader_that_publishes_nothing_is_a_problem_only_after_its_first_pass_is_due() -> None:
    assert report(view(term=6), since=NOW - 5).problems == ()
    assert about(report(view(term=6), since=NOW - 60)) == [("leader", True)]


def test_a_cluster_without_a_configuration_is_told_how_to_get_one() -> None:
    assert "config push" in report(view(), config=False).problems[0].what_to_do


def test_a_cluster_that_etcd_does_not_know_is_most_likely_misspelt() -> None:
    (problem,) = report(leader=None, config=False).problems
    assert "demo" in problem.what
    assert "SCALER_CLUSTER" in problem.what_to_do


def test_an_agent_that_stays_down_is_a_problem_and_one_that_restarts_is_not() -> None:
    assert report(view(), node(1, SlotState.DOWN, 10)).problems == ()
    assert about(report(view(), node(1, SlotState.DOWN, 60))) == [("i-0aa00000000000001", True)]


def test_an_agent_that_never_starts_is_a_problem_for_it_costs_and_does_nothing() -> None:
    assert report(view(), node(1, SlotState.STARTING, 120)).problems == ()
    assert about(report(view(), node(1, SlotState.STARTING, 3600))) == [("i-0aa00000000000001", True)]


def test_a_retiring_nodes_agents_are_down_on_purpose() -> None:
    assert report(view(), node(1, SlotState.DOWN, 60, node_state=NodeState.RETIRING)).problems == ()


def test_equal_failures_stand_once_with_their_number_and_the_newest_console() -> None:
    made = report(view(), failed("i-1", 300, "old"), failed("i-2", 200, "older"), failed("i-3", 100, "newest"))
    (problem,) = made.problems
    assert (problem.about, problem.times, problem.for_s, problem.detail) == ("i-3", 3, 100.0, "newest")


def test_a_failure_is_listed_for_an_hour() -> None:
    assert len(report(view(), failed("i-1", 3500)).problems) == 1
    assert report(view(), failed("i-1", 3700)).problems == ()


def test_a_refused_launch_is_over_once_the_pool_has_launched_again() -> None:
    launched = Event(NOW - 50, "launched", "cpu", "Launched 1 for pool cpu: i-9.")
    assert len(report(view(), refused(100)).problems) == 1
    assert report(view(), refused(100), launched).problems == ()


def test_a_refused_launch_is_not_listed_beside_the_pause_that_it_caused() -> None:
    pause = Problem("pool cpu", "Launching failed 2 times in a row: no capacity.", "It tries again.", NOW - 100)
    assert about(report(view(problems=(pause,)), refused(100))) == [("pool cpu", True)]


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        (KEYS.launch(LaunchId("l-1")), "as EC2 lists them"),
        (KEYS.node(InstanceId("i-1")), "writes it anew"),
        (KEYS.handback(InstanceId("i-1"), TaskId("t-1")), "enqueue it"),
        (KEYS.drain_request(InstanceId("i-1")), "Ask again"),
        (KEYS.protect_request(InstanceId("i-1")), "Ask again"),
        (KEYS.cooldown(CPU), "no pause"),
        (KEYS.start(CPU), "no failure"),
        (f"{KEYS.events}0-0", "newer version"),
    ],
)
def test_a_record_that_cannot_be_read_is_named_once_with_what_it_means(key: str, advice: str) -> None:
    healthy = entries(view(), node(1))
    (problem,) = make_report(sort_records((*healthy, Entry(key, "{", 1, 1)), KEYS), NOW).problems
    assert key in problem.what
    assert advice in problem.what_to_do
    assert problem.current


def test_a_launch_record_under_another_ones_key_is_named_and_not_counted_twice() -> None:
    copy = Entry(KEYS.launch(LaunchId("copy")), encode(launch()), 1, 1)
    made = make_report(sort_records((*entries(view(), launch()), copy), KEYS), NOW)
    assert [launch.launch_id for launch in made.launches] == ["demo-1"]
    assert KEYS.launch(LaunchId("copy")) in made.problems[0].what


def test_a_slot_that_a_task_has_spoiled_is_named_with_its_node() -> None:
    spoiled = node(1)
    spoiled = replace(spoiled, slots=tuple(replace(slot, problem="state.json is a pipe.") for slot in spoiled.slots))
    (problem, *_) = report(view(), spoiled).problems
    assert (problem.about, problem.what, problem.current) == (spoiled.instance_id, "state.json is a pipe.", True)
    assert "drain" in problem.what_to_do


@pytest.mark.parametrize(("lasts_s", "told"), [(60.0, False), (1200.0, True)])
def test_a_pull_that_does_not_end_is_named_with_what_it_holds_up(lasts_s: float, told: bool) -> None:
    pulling = node(1)
    pulling = replace(pulling, slots=tuple(replace(slot, pulling_since=NOW - lasts_s) for slot in pulling.slots))
    assert [(p.about, "is put back" in p.what) for p in report(view(), pulling).problems] == [
        (pulling.instance_id, True) for _ in pulling.slots if told
    ]
