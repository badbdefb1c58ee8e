"""Why a node leaves or stays other than for idleness, as pure decisions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaler_plugin.core.handback import Handback, HandbackAct, judge_handback
from scaler_plugin.core.interruption import MAINTENANCE_LEAD_S, SPOT_NOTICE_S, Notice, weigh
from scaler_plugin.core.leaving import Demand, strongest
from scaler_plugin.core.lifetime import is_replaced, of_age, places
from scaler_plugin.core.model import (
    InstanceId,
    Node,
    NodeIdentity,
    NodeRole,
    NodeState,
    PoolName,
    QueueName,
    ServerTask,
    TaskId,
    TaskStatus,
    WorkerId,
)
from scaler_plugin.core.policy import PoolPolicy
from scaler_plugin.core.requests import DrainRequest, ProtectRequest, is_over
from scaler_plugin.core.rescue import NO_RESCUE_TAG

NOW = 1_700_000_000.0
OURS = WorkerId("c:gpu:g5.xlarge:i-1")
POOL = PoolPolicy(PoolName("gpu"), (), max_instances=25, min_instances=2, max_lifetime_s=3600.0)


def task(status: TaskStatus, worker_id: WorkerId = OURS, requeues: int = 0, tags: tuple[str, ...] = ()) -> ServerTask:
    return ServerTask(TaskId("t"), status, QueueName("q"), NOW - 60, NOW, worker_id, tags, requeues)


def promise(requeues: int = 0) -> Handback:
    return Handback(TaskId("t"), InstanceId("i-1"), OURS, QueueName("q"), requeues, "because", NOW)


class TestAnnouncements:
    def test_a_spot_notice_interrupts_for_two_minutes_at_most(self) -> None:
        announced = weigh(Notice("terminate", NOW + 100), None, (), NOW)
        assert announced is not None
        assert announced.state is NodeState.INTERRUPTED
        assert announced.seconds_left(NOW) == 100
        assert announced.seconds_left(NOW - 86_400) == SPOT_NOTICE_S
        assert announced.seconds_left(NOW + 86_400) == 0

    def test_a_spot_notice_comes_before_everything_else(self) -> None:
        announced = weigh(Notice("stop", NOW + 100), NOW, (Notice("system-reboot", NOW + 10),), NOW)
        assert announced is not None
        assert announced.action == "stop"

    @pytest.mark.parametrize(("ahead_s", "state"), [(86_400.0, NodeState.DRAINING), (299.0, NodeState.INTERRUPTED)])
    def test_maintenance_drains_and_interrupts_only_when_it_is_near(self, ahead_s: float, state: NodeState) -> None:
        announced = weigh(None, None, (Notice("instance-retirement", NOW + ahead_s),), NOW)
        assert announced is not None
        assert announced.state is state
        assert announced.seconds_left(NOW) <= MAINTENANCE_LEAD_S

    def test_maintenance_that_is_over_or_disturbs_nobody_is_ignored(self) -> None:
        over = Notice("instance-stop", NOW + 10, active=False)
        assert weigh(None, None, (over, Notice("some-future-code", NOW + 10)), NOW) is None

    def test_rebalance_advice_drains(self) -> None:
        announced = weigh(None, NOW, (), NOW)
        assert announced is not None
        assert announced.state is NodeState.DRAINING

    def test_the_sentence_stays_the_same_while_time_goes_on(self) -> None:
        notice = Notice("terminate", NOW + 100)
        assert weigh(notice, None, (), NOW) == weigh(notice, None, (), NOW + 50)


class TestHandback:
    @pytest.mark.parametrize("status", [TaskStatus.STOPPED, TaskStatus.FAILED, TaskStatus.IN_PROGRESS])
    def test_a_task_that_we_asked_to_stop_goes_back(self, status: TaskStatus) -> None:
        assert judge_handback(task(status), OURS, promise(), 3).act is HandbackAct.REQUEUE

    def test_without_a_promise_only_a_task_in_progress_goes_back(self) -> None:
        assert judge_handback(task(TaskStatus.IN_PROGRESS), OURS, None, 3).act is HandbackAct.REQUEUE
        for status in (TaskStatus.STOPPED, TaskStatus.FAILED):
            assert judge_handback(task(status), OURS, None, 3).act is HandbackAct.LEAVE

    @pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.CREATED, TaskStatus.QUEUED])
    def test_a_task_that_is_done_or_was_dealt_with_is_left_alone(self, status: TaskStatus) -> None:
        assert judge_handback(task(status), OURS, promise(), 3).act is HandbackAct.LEAVE

    def test_a_task_that_was_put_back_meanwhile_or_runs_elsewhere_is_left_alone(self) -> None:
        assert judge_handback(task(TaskStatus.STOPPED, requeues=1), OURS, promise(0), 3).act is HandbackAct.LEAVE
        elsewhere = task(TaskStatus.IN_PROGRESS, WorkerId("c:gpu:g5.xlarge:i-2"))
        assert judge_handback(elsewhere, OURS, None, 3).act is HandbackAct.LEAVE
        assert judge_handback(None, OURS, promise(), 3).act is HandbackAct.LEAVE

    def test_a_tag_opts_out(self) -> None:
        tagged = task(TaskStatus.STOPPED, tags=(NO_RESCUE_TAG,))
        assert judge_handback(tagged, OURS, promise(), 3).act is HandbackAct.LEAVE

    def test_one_that_was_put_back_too_often_fails(self) -> None:
        assert judge_handback(task(TaskStatus.STOPPED, requeues=3), OURS, promise(3), 3).act is HandbackAct.FAIL


class TestLifetime:
    def test_a_node_comes_of_age_at_its_pools_max_lifetime_and_never_without_one(self) -> None:
        assert not of_age(NOW - 3599, POOL, NOW)
        assert of_age(NOW - 3600, POOL, NOW)
        assert not of_age(0.0, replace(POOL, max_lifetime_s=None), NOW)

    @pytest.mark.parametrize(("size", "at_once"), [(1, 1), (9, 1), (10, 1), (25, 2), (1000, 100)])
    def test_at_most_a_tenth_of_the_pool_leaves_at_a_time(self, size: int, at_once: int) -> None:
        assert places(replace(POOL, max_instances=size)) == at_once

    def test_a_node_is_replaced_when_the_others_that_are_up_make_the_minimum(self) -> None:
        def node(name: str, state: NodeState = NodeState.UP, pool: str = "gpu") -> Node:
            return Node(NodeIdentity("c", InstanceId(name), NodeRole.WORKER, PoolName(pool)), state, NOW)

        own, one, leaving, other_pool = node("i-1"), node("i-2"), node("i-3", NodeState.DRAINING), node("i-4", pool="x")
        assert not is_replaced(own, POOL, (own, one, leaving, other_pool))
        assert is_replaced(own, POOL, (own, one, leaving, other_pool, node("i-5")))


class TestRequests:
    def test_a_protection_holds_until_its_time_and_says_so(self) -> None:
        asked = ProtectRequest(InstanceId("i-1"), NOW, NOW + 60, "debugging", "ann@host")
        assert asked.holds(NOW + 59)
        assert not asked.holds(NOW + 60)
        assert asked.sentence == "Protected until 2023-11-14 22:14 UTC by ann@host: debugging."
        assert ProtectRequest(InstanceId("i-1"), NOW).holds(NOW + 1e9)

    def test_what_has_run_out_is_over_at_once_and_what_has_no_node_after_a_while(self) -> None:
        known, gone = frozenset({InstanceId("i-1")}), frozenset[InstanceId]()
        drain = DrainRequest(InstanceId("i-1"), NOW)
        assert is_over(ProtectRequest(InstanceId("i-1"), NOW, NOW + 60), known, 300, NOW + 61)
        assert not is_over(drain, known, 300, NOW + 1e6)
        assert not is_over(drain, gone, 300, NOW + 299)
        assert is_over(drain, gone, 300, NOW + 301)


def test_an_interruption_comes_before_a_drain_whatever_the_order() -> None:
    drain, taken = Demand(NodeState.DRAINING, "a"), Demand(NodeState.INTERRUPTED, "b")
    assert strongest([drain, None, taken]) == taken
    assert strongest([taken, drain]) == taken
    assert strongest([None]) is None
