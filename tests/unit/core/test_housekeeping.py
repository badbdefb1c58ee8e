"""Which instances will never be of use, on two witnesses; and which records have lost their subject."""

from __future__ import annotations

from typing import Any

import pytest

from scaler_plugin.core.census import UNRECORDED_GRACE_S
from scaler_plugin.core.housekeeping import (
    LISTING_LAG_S,
    Suspect,
    find_gone_nodes,
    find_suspects,
    instance_of,
    judge,
)
from scaler_plugin.core.model import (
    ClearmlWorker,
    InstanceId,
    InstanceState,
    NodeRole,
    PoolName,
    QueueName,
    ServerTask,
    TaskId,
    TaskStatus,
    WorkerId,
)
from scaler_plugin.core.observation import Observation

STARTUP_S = 600.0
LOST_AFTER_S = 900.0


def suspects(make: Any, **seen: Any) -> list[str]:
    return [s.instance_id for s in find_suspects(Observation(**{"instances": (), **seen}), make.policy(), make.now)]


def test_an_awaited_instance_is_a_suspect_from_its_startup_timeout_on(make: Any) -> None:
    early = make.launch("l-1", started=("i-1",), at=make.now - STARTUP_S + 1)
    late = make.launch("l-2", started=("i-2",), at=make.now - STARTUP_S)
    assert suspects(make, launches=(early, late)) == ["i-2"]


def test_an_instance_that_registered_or_ends_is_no_suspect(make: Any) -> None:
    late = make.launch(count=2, started=("i-1", "i-2"), at=make.now - STARTUP_S)
    ending = make.instance("i-2", state=InstanceState.SHUTTING_DOWN)
    assert suspects(make, launches=(late,), nodes=(make.node("i-1"),), instances=(ending,)) == []


def test_an_open_launch_makes_nobody_a_suspect_whatever_its_age(make: Any) -> None:
    old = make.launch("l-1", at=make.now - 10 * STARTUP_S)
    assert suspects(make, launches=(old,), instances=(make.instance("i-1", launch="l-1"),)) == []


def test_an_instance_in_no_record_gets_its_startup_time_and_a_grace_since_it_was_first_seen(make: Any) -> None:
    old, fresh = make.instance("i-1"), make.instance("i-2", launched_at=make.now - 10)
    since = {InstanceId("i-1"): make.now - UNRECORDED_GRACE_S, InstanceId("i-2"): make.now - 10}
    assert suspects(make, instances=(old, fresh), unrecorded_since=since) == ["i-1"]
    just_seen = {InstanceId("i-1"): make.now - UNRECORDED_GRACE_S + 1}
    assert suspects(make, instances=(old,), unrecorded_since=just_seen) == []


def test_an_instance_of_a_removed_pool_is_judged_by_a_default_time(make: Any) -> None:
    instance = make.instance("i-1", "gone")
    assert suspects(make, instances=(instance,), unrecorded_since={instance.instance_id: make.now - 100}) == ["i-1"]


def test_without_a_listing_there_are_no_suspects(make: Any) -> None:
    late = make.launch(started=("i-1",), at=make.now - STARTUP_S)
    assert suspects(make, launches=(late,), instances=None) == []


SUSPECT = Suspect(InstanceId("i-1"), PoolName("cpu"), None, "cause")
WORKER = WorkerId("c:cpu:c5.large:i-1:0")


def task(status: TaskStatus, updated: float) -> ServerTask:
    return ServerTask(
        TaskId("t"), status, QueueName("q"), status_changed_at=updated, last_update_at=updated, worker_id=WORKER
    )


def test_a_suspect_without_any_sign_of_a_task_is_condemned(make: Any) -> None:
    idle = ClearmlWorker(WORKER)
    stranger = ClearmlWorker(WorkerId("c:cpu:c5.large:i-2"), TaskId("t"))
    verdict = judge((SUSPECT,), (idle, stranger), (), LOST_AFTER_S, make.now)
    assert verdict.condemned == (SUSPECT,)
    assert verdict.working == ()


def test_a_suspect_whose_worker_reports_a_task_is_spared(make: Any) -> None:
    verdict = judge((SUSPECT,), (ClearmlWorker(WORKER, TaskId("t")),), (), LOST_AFTER_S, make.now)
    assert verdict.condemned == ()
    assert [working.task_id for working in verdict.working] == ["t"]


@pytest.mark.parametrize(("silent_s", "spared"), [(LOST_AFTER_S - 1, True), (LOST_AFTER_S, False)])
def test_a_suspect_whose_worker_left_the_list_is_spared_while_its_task_was_heard_of(
    make: Any, silent_s: float, spared: bool
) -> None:
    running = task(TaskStatus.IN_PROGRESS, make.now - silent_s)
    verdict = judge((SUSPECT,), (), (running,), LOST_AFTER_S, make.now)
    assert bool(verdict.working) is spared


@pytest.mark.parametrize(
    ("worker_id", "instance"),
    [
        ("c:cpu:c5.large:i-1", "i-1"),
        ("c:cpu:c5.large:i-1:3", "i-1"),
        ("laptop:0", ""),
        ("", ""),
        ("a:b:c:d:e:f", ""),
    ],
)
def test_a_worker_id_names_its_instance_only_in_our_form(worker_id: str, instance: str) -> None:
    assert instance_of(WorkerId(worker_id)) == instance


def gone(make: Any, *nodes: Any, instances: Any) -> list[str]:
    return [node.instance_id for node in find_gone_nodes(Observation(nodes=nodes, instances=instances), make.now)]


def test_nodes_whose_instance_has_ended_or_is_no_longer_listed_are_gone(make: Any) -> None:
    nodes = [make.node(f"i-{i}") for i in range(4)]
    listed = (
        make.instance("i-0"),
        make.instance("i-1", state=InstanceState.TERMINATED),
        make.instance("i-2", state=InstanceState.SHUTTING_DOWN),
    )
    assert "i-0" not in gone(make, *nodes, instances=listed)
    assert {"i-1", "i-3"} <= set(gone(make, *nodes, instances=listed))


def test_a_node_that_is_too_young_to_be_listed_and_a_standby_are_not_gone(make: Any) -> None:
    young = make.node("i-1", registered_at=make.now - LISTING_LAG_S)
    standby = make.node("host", role=NodeRole.STANDBY)
    assert gone(make, young, standby, instances=()) == []
    assert gone(make, make.node("i-1"), instances=None) == []
