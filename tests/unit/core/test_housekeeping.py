"""Which instances will never be of use, on two witnesses; and which records have lost their subject."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scaler_plugin.core.census import UNRECORDED_GRACE_S
from scaler_plugin.core.housekeeping import (
    AGENT_SILENT_S,
    LISTING_LAG_S,
    Evidence,
    Suspect,
    Verdict,
    find_gone_nodes,
    find_suspects,
    find_vanished,
    follow_popped,
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
    instances = (make.instance("i-1"), make.instance("i-2"))
    assert suspects(make, launches=(early, late), instances=instances) == ["i-2"]


def test_an_awaited_instance_that_ec2_lists_no_more_has_vanished_and_is_no_suspect(make: Any) -> None:
    late = make.launch(count=2, started=("i-1", "i-2"), at=make.now - STARTUP_S)
    seen = Observation(launches=(late,), instances=(make.instance("i-1"),))
    assert find_vanished(late, seen, make.policy(), make.now) == {"i-2"}
    assert [s.instance_id for s in find_suspects(seen, make.policy(), make.now)] == ["i-1"]


def test_nothing_has_vanished_that_is_young_or_registered_or_while_ec2_cannot_be_read(make: Any) -> None:
    young = make.launch("l-1", started=("i-1",), at=make.now - STARTUP_S + 1)
    late = make.launch("l-2", started=("i-2",), at=make.now - STARTUP_S)
    assert find_vanished(young, Observation(instances=()), make.policy(), make.now) == set()
    assert find_vanished(late, Observation(instances=None), make.policy(), make.now) == set()
    registered = Observation(instances=(), nodes=(make.node("i-2"),))
    assert find_vanished(late, registered, make.policy(), make.now) == set()
    quick = make.policy(make.pool(startup_timeout_s=5.0))
    fresh = make.launch("l-3", started=("i-3",), at=make.now - LISTING_LAG_S + 1)
    assert find_vanished(fresh, Observation(instances=()), quick, make.now) == set()


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


WORKER = WorkerId("c:cpu:c5.large:i-1:0")


def suspect(make: Any, overdue_s: float = 10.0, pool: str = "cpu") -> Suspect:
    return Suspect(InstanceId("i-1"), PoolName(pool), None, "cause", make.now - overdue_s)


def worker(make: Any, reported_s: float | None, task_id: str | None = None) -> ClearmlWorker:
    """``reported_s`` ago."""
    return ClearmlWorker(
        WORKER, TaskId(task_id) if task_id else None, None if reported_s is None else make.now - reported_s
    )


def task(
    status: TaskStatus, updated: float, changed: float | None = None, name: str = "t", queue: str | None = "q"
) -> ServerTask:
    return ServerTask(
        TaskId(name),
        status,
        QueueName(queue) if queue else None,
        status_changed_at=updated if changed is None else changed,
        last_update_at=updated,
        worker_id=WORKER if status is TaskStatus.IN_PROGRESS else None,
    )


def judged(
    make: Any,
    one: Suspect,
    *workers: ClearmlWorker,
    tasks: tuple[ServerTask, ...] = (),
    popped_since: dict[TaskId, float] | None = None,
    **backlogs: int,
) -> Verdict:
    seen = Evidence(workers, tasks, make.backlogs(**backlogs))
    policy = make.policy(lost_after_s=LOST_AFTER_S)
    return judge((one,), seen, policy, follow_popped(seen, popped_since or {}, make.now), make.now)


def test_a_suspect_without_any_sign_of_a_task_or_an_agent_is_condemned(make: Any) -> None:
    one = suspect(make)
    stranger = ClearmlWorker(WorkerId("c:cpu:c5.large:i-2"), TaskId("t"), make.now)
    assert judged(make, one, worker(make, AGENT_SILENT_S), stranger) == Verdict((one,), ())


@pytest.mark.parametrize("reported_s", [0.0, AGENT_SILENT_S - 1, None])
def test_a_suspect_whose_agent_lives_is_spared_until_it_has_been_overdue_for_lost_after(
    make: Any, reported_s: float | None
) -> None:
    early, late = suspect(make, LOST_AFTER_S - 1), suspect(make, LOST_AFTER_S)
    assert judged(make, early, worker(make, reported_s)).asking == (early,)
    assert judged(make, late, worker(make, reported_s)).condemned == (late,)


def test_a_task_on_its_way_to_an_agent_spares_one_that_lives_after_lost_after_as_well(make: Any) -> None:
    one, living = suspect(make, LOST_AFTER_S), worker(make, 10)
    popped = task(TaskStatus.QUEUED, make.now - 5000, name="q-9")
    assert judged(make, one, living, tasks=(popped,), q=3).asking == (one,)
    started = replace(task(TaskStatus.IN_PROGRESS, make.now), worker_id=None)
    assert judged(make, one, living, tasks=(started,)).asking == (one,)
    of_no_queue = task(TaskStatus.QUEUED, make.now, queue=None)
    assert judged(make, one, living, tasks=(of_no_queue,)).asking == (one,)
    assert judged(make, suspect(make, LOST_AFTER_S, "removed"), living, tasks=(popped,)).condemned == ()


def test_while_not_all_queued_tasks_could_be_read_any_agent_that_lives_may_have_popped_one(make: Any) -> None:
    one, policy = suspect(make, LOST_AFTER_S), make.policy(lost_after_s=LOST_AFTER_S)
    living = Evidence((worker(make, 10),), (), make.backlogs(q=3), all_queued=False)
    assert judge((one,), living, policy, {}, make.now).asking == (one,)
    silent = replace(living, workers=(worker(make, AGENT_SILENT_S),))
    assert judge((one,), silent, policy, {}, make.now).condemned == (one,)


def test_no_task_spares_anybody_that_waits_or_is_of_other_queues_or_was_popped_long_ago(make: Any) -> None:
    one, living = suspect(make, LOST_AFTER_S), worker(make, 10)
    waits = task(TaskStatus.QUEUED, make.now, name="q-1")
    assert judged(make, one, living, tasks=(waits,), q=3).condemned == (one,)
    elsewhere = task(TaskStatus.QUEUED, make.now, queue="other")
    assert judged(make, one, living, tasks=(elsewhere,)).condemned == (one,)
    popped, since = task(TaskStatus.QUEUED, make.now), {TaskId("t"): make.now - AGENT_SILENT_S}
    assert judged(make, one, living, tasks=(popped,), popped_since=since).condemned == (one,)


def test_a_task_on_its_way_saves_no_instance_whose_agent_was_never_heard_of(make: Any) -> None:
    one = suspect(make)
    assert judged(make, one, tasks=(task(TaskStatus.QUEUED, make.now),)).condemned == (one,)


def test_a_suspect_whose_worker_reports_a_task_is_spared(make: Any) -> None:
    verdict = judged(make, suspect(make, 10 * LOST_AFTER_S), worker(make, 500, "t"))
    assert verdict.condemned == ()
    assert [working.task_id for working in verdict.working] == ["t"]


@pytest.mark.parametrize(("silent_s", "spared"), [(LOST_AFTER_S - 1, True), (LOST_AFTER_S, False)])
def test_a_suspect_whose_worker_left_the_list_is_spared_while_its_task_was_heard_of(
    make: Any, silent_s: float, spared: bool
) -> None:
    running = task(TaskStatus.IN_PROGRESS, make.now - silent_s)
    assert bool(judged(make, suspect(make), tasks=(running,)).working) is spared


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
    assert gone(make, *nodes, instances=listed) == ["i-1", "i-3"], "one that is shutting down may have something to say"


def test_a_node_that_is_too_young_to_be_listed_and_a_standby_are_not_gone(make: Any) -> None:
    young = make.node("i-1", registered_at=make.now - LISTING_LAG_S)
    standby = make.node("host", role=NodeRole.STANDBY)
    assert gone(make, young, standby, instances=()) == []
    assert gone(make, make.node("i-1"), instances=None) == []
