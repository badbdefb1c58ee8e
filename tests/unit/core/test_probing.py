"""A probe's decisions, one by one."""

from __future__ import annotations

import pytest

from scaler_plugin.core.model import InstanceId
from scaler_plugin.core.probing import (
    BLIND_LIMIT_S,
    LEADER_MARGIN_S,
    ProbeAct,
    ProbeSight,
    Remains,
    judge_probe,
    what_remains,
)

TTL_S = 10.0
OTHER = InstanceId("i-other")
WORK = Remains(True, "3 tasks wait.")


@pytest.mark.parametrize(
    ("sight", "act"),
    [
        pytest.param(ProbeSight(), ProbeAct.STAY, id="it has just come up"),
        pytest.param(ProbeSight(OTHER, TTL_S), ProbeAct.STAY, id="the leader seen may be dead for all it knows"),
        pytest.param(ProbeSight(OTHER, TTL_S + LEADER_MARGIN_S), ProbeAct.END, id="another one leads, and lives"),
        pytest.param(ProbeSight(remains=Remains(True)), ProbeAct.END, id="it leads and nothing is to be done"),
        pytest.param(ProbeSight(remains=WORK), ProbeAct.STAY, id="it leads and tasks wait"),
        pytest.param(ProbeSight(remains=WORK, blind_for_s=1e6), ProbeAct.STAY, id="known work outweighs everything"),
        pytest.param(ProbeSight(remains=WORK, workers=1), ProbeAct.HAND_OVER, id="a worker is up"),
        pytest.param(ProbeSight(remains=Remains(False, "x")), ProbeAct.STAY, id="ClearML cannot be read just now"),
        pytest.param(
            ProbeSight(remains=Remains(False, "ClearML cannot be read."), blind_for_s=BLIND_LIMIT_S),
            ProbeAct.END,
            id="ClearML cannot be read for long",
        ),
        pytest.param(ProbeSight(blind_for_s=BLIND_LIMIT_S), ProbeAct.END, id="etcd is away for long"),
    ],
)
def test_what_a_probe_does(sight: ProbeSight, act: ProbeAct) -> None:
    verdict = judge_probe(sight, TTL_S)
    assert verdict.act is act
    assert verdict.reason.endswith(".")


@pytest.mark.parametrize(
    ("arguments", "remains"),
    [
        pytest.param((0, 0, 0, True), Remains(True), id="nothing"),
        pytest.param((2, 0, 0, True), Remains(True, "2 tasks wait."), id="backlog"),
        pytest.param((0, 1, 0, True), Remains(True, "A launch is under way."), id="a launch"),
        pytest.param((0, 0, 1, True), Remains(True, "1 tasks look stranded."), id="a task of a dead machine"),
    ],
)
def test_what_remains_after_a_pass(arguments: tuple[int, int, int, bool], remains: Remains) -> None:
    assert what_remains(*arguments) == remains


@pytest.mark.parametrize("arguments", [(None, 0, 0, True), (0, 0, None, True), (5, 0, 0, False)])
def test_a_source_that_was_not_read_is_never_taken_for_empty(
    arguments: tuple[int | None, int, int | None, bool],
) -> None:
    assert not what_remains(*arguments).known
