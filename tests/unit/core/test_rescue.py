"""Which tasks are rescued, when, and above all which never are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from scaler_plugin.core.model import (
    Backlog,
    ClearmlWorker,
    Instance,
    InstanceId,
    InstanceState,
    Launch,
    Node,
    QueueName,
    ServerTask,
    SlotState,
    TaskId,
    TaskStatus,
    WorkerId,
)
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.rescue import (
    NO_RESCUE_TAG,
    SIGHTINGS_APART_S,
    Cause,
    Stranded,
    confirmed,
    find_duplicates,
    find_ghosts,
    find_stranded,
)

from .conftest import NOW, Make

T, QUEUE = TaskId("t"), QueueName("q")
GRACE_S = 60.0
SWEEP_S = 5.0
LONG_AGO = NOW - 5000


def worker_on(instance: str) -> WorkerId:
    return WorkerId(f"c:cpu:a:{instance}")


def limbo(**fields: Any) -> ServerTask:
    return replace(ServerTask(T, TaskStatus.QUEUED, QUEUE, LONG_AGO, LONG_AGO), **fields)


def running_on(instance: str, **fields: Any) -> ServerTask:
    """Started, reported a moment later, and not heard of since."""
    task = ServerTask(T, TaskStatus.IN_PROGRESS, QUEUE, LONG_AGO, LONG_AGO + 1, worker_on(instance))
    return replace(task, **fields)


def names(node: Node, **fields: Any) -> Node:
    """The node with these fields of its first slot."""
    return replace(node, slots=(replace(node.slots[0], **fields), *node.slots[1:]))


class Sweeps:
    """Sweeps of a leader over what it sees; ``seen`` and ``tasks`` may change between them."""

    def __init__(self, policy: ClusterPolicy, tasks: list[ServerTask], **seen: Any) -> None:
        self.policy = policy
        self.tasks = tasks
        self.seen: dict[str, Any] = {"backlogs": {QUEUE: Backlog(QUEUE)}, "instances": (), **seen}
        self.found: Mapping[TaskId, Stranded] = {}
        self.now = NOW
        self.passed_s = 0.0

    def sweep(self) -> list[Cause]:
        """One sweep; the causes of what it would rescue."""
        observation = Observation(**self.seen)
        found = find_stranded(observation, self.tasks, self.policy, self.found, self.now, self.passed_s)
        self.found = {one.task.task_id: one for one in found}
        return [one.cause for one in confirmed(found, self.passed_s)]

    def over(self, seconds: float, every_s: float = SWEEP_S) -> list[Cause]:
        """Sweeps until something is rescued or the time is over. It begins with a sweep at once."""
        until = self.passed_s + seconds
        while not (causes := self.sweep()) and self.passed_s < until:
            self.now += every_s
            self.passed_s += every_s
        return causes


Scene = Callable[..., Sweeps]


@pytest.fixture
def scene(make: Make) -> Scene:
    def build(*tasks: ServerTask, policy: ClusterPolicy | None = None, **seen: Any) -> Sweeps:
        return Sweeps(policy or make.policy(make.pool(), make.pool("gpu", "g")), list(tasks), **seen)

    return build


@pytest.fixture
def idle(make: Make) -> tuple[Node, Instance]:
    return make.node("i-1"), make.instance("i-1")


# Limbo.


def test_a_task_in_limbo_is_rescued_after_the_grace_and_within_90_s(scene: Scene) -> None:
    sweeps = scene(limbo())
    assert sweeps.over(GRACE_S - SWEEP_S) == []
    assert sweeps.over(SWEEP_S) == [Cause.LIMBO]
    assert sweeps.passed_s == GRACE_S  # and at most 15 s pass before the first sweep


def test_a_task_enqueued_and_popped_just_now_is_rescued_as_early(scene: Scene) -> None:
    sweeps = scene(limbo(status_changed_at=NOW, last_update_at=NOW))
    assert sweeps.over(90.0) == [Cause.LIMBO]
    assert sweeps.passed_s == GRACE_S


def test_a_task_that_waited_for_hours_and_was_popped_just_now_has_the_whole_grace(
    scene: Scene, idle: tuple[Node, Instance]
) -> None:
    """Its own times are old: only the first sight says since when it may be in limbo."""
    node, instance = idle
    sweeps = scene(limbo(), nodes=(node,), instances=(instance,))
    assert sweeps.over(20.0) == []
    sweeps.seen["nodes"] = (names(node, state=SlotState.BUSY, task_id=T),)
    assert sweeps.over(600.0) == []


def test_a_waiting_task_is_no_limbo(scene: Scene) -> None:
    assert scene(limbo(), backlogs={QUEUE: Backlog(QUEUE, (T,))}).over(600.0) == []


def test_a_task_enqueued_between_the_two_reads_is_forgotten_when_it_is_seen_waiting(scene: Scene) -> None:
    sweeps = scene(limbo())
    assert sweeps.sweep() == []
    assert T in sweeps.found
    sweeps.seen["backlogs"] = {QUEUE: Backlog(QUEUE, (T,))}
    assert sweeps.over(600.0) == []
    assert sweeps.found == {}


@pytest.mark.parametrize("source", ["backlogs", "instances"])
def test_without_a_source_nothing_is_stranded(scene: Scene, source: str) -> None:
    sweeps = scene(limbo(), running_on("i-9", task_id=TaskId("u")))
    sweeps.seen[source] = None
    assert sweeps.over(600.0) == []


# Holders.


def test_a_slow_agent_that_starts_within_the_grace_keeps_its_task(scene: Scene, idle: tuple[Node, Instance]) -> None:
    node, instance = idle
    sweeps = scene(limbo(), nodes=(node,), instances=(instance,))
    assert sweeps.over(GRACE_S - SWEEP_S) == []
    started = sweeps.now
    sweeps.tasks = [running_on("i-1", status_changed_at=started, last_update_at=started + 0.01)]
    sweeps.seen["nodes"] = (names(node, state=SlotState.BUSY, task_id=T),)
    assert sweeps.over(600.0) == []


def test_a_frozen_agent_whose_pull_goes_on_keeps_its_task_for_ever_and_a_whole_grace_beyond(
    scene: Scene, idle: tuple[Node, Instance]
) -> None:
    node, instance = idle
    sweeps = scene(limbo(), nodes=(node,), instances=(instance,))
    assert sweeps.over(20.0) == []  # until the sidecar says that the pull is remarkably long
    sweeps.seen["nodes"] = (names(node, pulling_since=sweeps.now),)
    assert sweeps.over(4000.0) == []
    sweeps.seen["nodes"] = (node,)  # killed, or thawed and about to start: nobody knows yet
    assert sweeps.over(GRACE_S - SWEEP_S) == []
    assert sweeps.over(2 * SWEEP_S) == [Cause.LIMBO]


def test_a_pull_of_another_pool_holds_nothing_up(scene: Scene, make: Make) -> None:
    gpu = names(make.node("i-2", "gpu"), pulling_since=NOW)
    assert scene(limbo(), nodes=(gpu,), instances=(make.instance("i-2", "gpu"),)).over(90.0) == [Cause.LIMBO]


def test_a_node_that_etcd_has_lost_may_hold_any_task_of_its_queues(scene: Scene, make: Make) -> None:
    cut_off = make.instance("i-1")
    sweeps = scene(limbo(), instances=(cut_off,))
    assert sweeps.over(4000.0) == []
    sweeps.seen["instances"] = (replace(cut_off, state=InstanceState.TERMINATED),)
    assert sweeps.over(90.0) == [Cause.LIMBO]


def test_a_lost_node_of_a_pool_that_is_no_longer_configured_may_hold_any_task(scene: Scene, make: Make) -> None:
    assert scene(limbo(), instances=(make.instance("i-1", "dropped"),)).over(4000.0) == []


def awaited(make: Make, launched_at: float) -> tuple[Launch, Instance]:
    return make.launch(started=("i-1",)), make.instance("i-1", launched_at=launched_at)


def test_an_awaited_instance_may_hold_what_was_popped_after_its_launch(scene: Scene, make: Make) -> None:
    launch, instance = awaited(make, NOW - 100)
    sweeps = scene(limbo(), launches=(launch,), instances=(instance,))
    assert sweeps.over(400.0) == []
    sweeps.seen.update(launches=(), nodes=(make.node("i-1"),))
    assert sweeps.over(90.0) == [Cause.LIMBO]


def test_launches_after_the_first_sight_do_not_hold_a_rescue_up(scene: Scene, make: Make) -> None:
    launch, instance = awaited(make, NOW + 10)
    sweeps = scene(limbo())
    assert sweeps.over(20.0) == []
    sweeps.seen.update(launches=(launch,), instances=(instance,))
    assert sweeps.over(90.0) == [Cause.LIMBO]
    assert sweeps.passed_s == GRACE_S


def test_a_cut_off_node_that_runs_its_task_is_alive_as_long_as_ec2_says_so(scene: Scene, make: Make) -> None:
    sweeps = scene(running_on("i-1"), instances=(make.instance("i-1"),))
    assert sweeps.over(4000.0) == []
    assert sweeps.found == {}


def test_a_task_that_a_node_names_is_never_stranded(scene: Scene, make: Make) -> None:
    """Whatever the server says of it: another worker, another status."""
    holder = names(make.node("i-2"), state=SlotState.BUSY, task_id=T)
    dead = make.instance("i-1", state=InstanceState.TERMINATED)
    for task in (running_on("i-1"), limbo(), running_on("i-2")):
        assert scene(task, nodes=(holder,), instances=(make.instance("i-2"), dead)).over(600.0) == []


def test_a_node_that_ec2_has_ended_holds_nothing_any_more(scene: Scene, make: Make) -> None:
    record = names(make.node("i-1"), state=SlotState.BUSY, task_id=T)
    sweeps = scene(
        running_on("i-1"), nodes=(record,), instances=(make.instance("i-1", state=InstanceState.TERMINATED),)
    )
    assert sweeps.over(30.0) == [Cause.INSTANCE_ENDED]


# Instances that are gone.


@pytest.mark.parametrize("state", [InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED])
def test_a_task_of_an_ended_instance_is_rescued_at_the_second_sight(
    scene: Scene, make: Make, state: InstanceState
) -> None:
    just_started = running_on("i-1", status_changed_at=NOW - 3, last_update_at=NOW - 2)
    sweeps = scene(just_started, instances=(make.instance("i-1", state=state),))
    assert sweeps.sweep() == []
    assert sweeps.sweep() == []  # not twice in one moment
    assert sweeps.over(30.0) == [Cause.INSTANCE_ENDED]
    assert sweeps.passed_s == SWEEP_S
    assert sweeps.found[T].on == InstanceId("i-1")


@pytest.mark.parametrize("state", [InstanceState.STOPPED, InstanceState.STOPPING])
def test_a_stopped_instance_may_come_back(scene: Scene, make: Make, state: InstanceState) -> None:
    assert scene(running_on("i-1"), instances=(make.instance("i-1", state=state),)).over(4000.0) == []


def test_an_instance_that_ec2_no_longer_lists_is_gone_after_a_while_of_silence(scene: Scene) -> None:
    silent = {"status_changed_at": NOW - 90, "last_update_at": NOW - 50}
    sweeps = scene(running_on("i-1", **silent))
    assert sweeps.over(120.0) == [Cause.INSTANCE_ENDED]
    assert sweeps.passed_s > GRACE_S  # a listing may be stale: only what EC2 says of an ended instance needs no grace


def test_an_instance_that_ec2_does_not_list_yet_is_alive_while_its_task_is_heard_of(scene: Scene) -> None:
    sweeps = scene(running_on("i-1"))
    for _ in range(200):
        sweeps.tasks = [running_on("i-1", last_update_at=sweeps.now - 30)]
        assert sweeps.over(SWEEP_S) == []


def test_a_task_just_started_by_another_agent_still_names_its_old_worker_and_is_left_alone(
    scene: Scene, idle: tuple[Node, Instance], make: Make
) -> None:
    """The new agent has started it and is frozen before its first report; its node's record is seconds old."""
    node, instance = idle
    dead = make.instance("i-0", state=InstanceState.TERMINATED)
    sweeps = scene(
        running_on("i-0", status_changed_at=NOW, last_update_at=NOW), nodes=(node,), instances=(instance, dead)
    )
    assert sweeps.over(15.0) == []
    sweeps.seen["nodes"] = ()  # the lease of the frozen machine runs out: it is in doubt as long as EC2 lists it
    assert sweeps.over(4000.0) == []


def test_an_agent_that_died_between_start_and_report_has_its_task_rescued_after_the_grace(
    scene: Scene, make: Make
) -> None:
    dead = make.instance("i-0", state=InstanceState.TERMINATED)
    sweeps = scene(running_on("i-0", status_changed_at=NOW, last_update_at=NOW), instances=(dead,))
    assert sweeps.over(90.0) == [Cause.INSTANCE_ENDED]
    assert sweeps.passed_s == GRACE_S


def test_tasks_of_workers_that_are_not_ours_are_left_alone(scene: Scene) -> None:
    for worker in ("other:cpu:a:i-1", "desktop:0", "c", "c:cpu:a:", "cc:cpu:a:i-1"):
        assert scene(running_on("i-1", worker_id=WorkerId(worker))).over(4000.0) == [], worker
    assert scene(running_on("i-1", worker_id=None)).over(4000.0) == []


# Tasks that a living node does not carry.


def test_a_task_that_its_living_node_does_not_carry_is_rescued_after_the_grace(
    scene: Scene, idle: tuple[Node, Instance]
) -> None:
    node, instance = idle
    other = names(node, state=SlotState.BUSY, task_id=TaskId("another"))
    for record in (node, other, names(node, state=SlotState.DOWN)):
        sweeps = scene(running_on("i-1"), nodes=(record,), instances=(instance,))
        assert sweeps.over(GRACE_S - SWEEP_S) == []
        assert sweeps.over(SWEEP_S) == [Cause.ABANDONED]


@pytest.mark.parametrize(
    "unclear",
    [
        {"pulling_since": NOW - 1},
        {"state": SlotState.STARTING},
        {"state": SlotState.BUSY, "task_id": None},
    ],
)
def test_a_node_that_does_not_know_all_it_runs_keeps_its_tasks(
    scene: Scene, idle: tuple[Node, Instance], unclear: dict[str, Any]
) -> None:
    node, instance = idle
    assert scene(running_on("i-1"), nodes=(names(node, **unclear),), instances=(instance,)).over(4000.0) == []


def test_one_unclear_slot_of_several_is_enough(scene: Scene, make: Make) -> None:
    node = make.node("i-1", "cpu", SlotState.IDLE, SlotState.STARTING)
    sweeps = scene(running_on("i-1", worker_id=WorkerId("c:cpu:a:i-1:0")), nodes=(node,), instances=(make.instance(),))
    assert sweeps.over(4000.0) == []
    sweeps.seen["nodes"] = (make.node("i-1", "cpu", SlotState.IDLE, SlotState.IDLE),)
    assert sweeps.over(90.0) == [Cause.ABANDONED]


def test_a_task_that_is_still_heard_of_is_not_abandoned_however_old_its_nodes_record_is(
    scene: Scene, idle: tuple[Node, Instance]
) -> None:
    """A sidecar that hangs while its lease is renewed: its record says idle, the agent reports its task every 30 s."""
    node, instance = idle
    sweeps = scene(nodes=(node,), instances=(instance,))
    for _ in range(200):
        sweeps.tasks = [running_on("i-1", last_update_at=sweeps.now - 30)]
        assert sweeps.over(SWEEP_S) == []


# Twice, opting out, clocks.


def test_a_change_of_the_task_between_two_sweeps_begins_the_grace_anew(scene: Scene) -> None:
    sweeps = scene(limbo())
    assert sweeps.over(GRACE_S - SWEEP_S) == []
    sweeps.tasks = [limbo(status_changed_at=sweeps.now)]
    assert sweeps.over(GRACE_S - SWEEP_S) == []
    assert sweeps.over(SWEEP_S) == [Cause.LIMBO]


def test_two_sightings_far_apart_are_not_one(scene: Scene) -> None:
    """ClearML was away, or the leader was paused: the task may have been popped a second ago."""
    sweeps = scene(limbo())
    assert sweeps.over(SWEEP_S) == []
    sweeps.passed_s += SIGHTINGS_APART_S + GRACE_S
    assert sweeps.over(GRACE_S - SWEEP_S) == []


def test_a_jump_of_the_wall_clock_does_not_shorten_the_grace(scene: Scene) -> None:
    sweeps = scene(limbo())
    assert sweeps.over(SWEEP_S) == []
    sweeps.now += 86_400
    assert sweeps.over(GRACE_S - 3 * SWEEP_S) == []
    sweeps.now -= 2 * 86_400
    assert sweeps.over(2 * SWEEP_S) == [Cause.LIMBO]
    assert sweeps.passed_s == GRACE_S


def test_a_tag_on_the_task_opts_it_out(scene: Scene) -> None:
    for task in (limbo(tags=("a", NO_RESCUE_TAG)), running_on("i-9", tags=(NO_RESCUE_TAG,))):
        assert scene(task).over(600.0) == []
    assert scene(limbo(tags=("a",))).over(90.0) == [Cause.LIMBO]


def test_a_tag_on_the_queue_opts_all_its_tasks_out(scene: Scene) -> None:
    tagged = {QUEUE: Backlog(QUEUE, tags=(NO_RESCUE_TAG,)), QueueName("g"): Backlog(QueueName("g"))}
    elsewhere = limbo(task_id=TaskId("u"), queue=QueueName("g"))
    sweeps = scene(limbo(), running_on("i-9", task_id=TaskId("v")), elsewhere, backlogs=tagged)
    assert sweeps.over(90.0) == [Cause.LIMBO]
    assert set(sweeps.found) == {TaskId("u")}


def test_every_rescue_has_a_sentence_that_names_task_and_instance(scene: Scene, make: Make) -> None:
    dead = make.instance("i-0", state=InstanceState.TERMINATED)
    tasks = [
        limbo(),
        running_on("i-0", task_id=TaskId("u")),
        running_on("i-1", task_id=TaskId("v")),
    ]
    sweeps = scene(*tasks, nodes=(make.node("i-1"),), instances=(make.instance("i-1"), dead))
    sweeps.sweep()
    assert {one.task.task_id: one.sentence for one in sweeps.found.values()} == {
        "t": "Task t was taken from queue q and never started; no agent holds it.",
        "u": "Task u ran on i-0, which EC2 has ended.",
        "v": "Task v is in progress on i-1, where no process or container carries it.",
    }


# Duplicates and ghosts.


def test_a_task_on_two_nodes_is_a_duplicate_and_one_on_two_slots_of_a_node_is_not(make: Make) -> None:
    first, second = (names(make.node(name), state=SlotState.BUSY, task_id=T) for name in ("i-1", "i-2"))
    (found,) = find_duplicates([first, second, make.node("i-3")])
    assert (found.task_id, found.nodes) == (T, ("i-1", "i-2"))
    double = make.node("i-4", "cpu", SlotState.BUSY, SlotState.BUSY)
    double = replace(double, slots=tuple(replace(slot, task_id=T) for slot in double.slots))
    assert find_duplicates([double]) == ()


def test_a_task_named_by_a_slot_that_is_not_busy_is_no_duplicate(make: Make) -> None:
    assert find_duplicates([names(make.node("i-1"), task_id=T), names(make.node("i-2"), task_id=T)]) == ()


def ghost_seen(make: Make, reported_at: float | None, *instances: Instance, nodes: tuple[Node, ...] = ()) -> bool:
    worker = ClearmlWorker(worker_on("i-1"), None, reported_at)
    return find_ghosts(Observation(nodes=nodes, instances=instances), [worker], "c", NOW) == (worker.worker_id,)


def test_a_worker_of_an_ended_instance_is_a_ghost(make: Make) -> None:
    assert ghost_seen(make, NOW - 1, make.instance("i-1", state=InstanceState.TERMINATED))
    assert not ghost_seen(make, NOW - 500, make.instance("i-1"))


def test_a_worker_whose_instance_is_not_listed_is_a_ghost_once_it_is_silent(make: Make) -> None:
    assert ghost_seen(make, NOW - 61)
    assert not ghost_seen(make, NOW - 30)
    assert not ghost_seen(make, None)  # registered a moment ago, on an instance that EC2 does not list yet
    assert not ghost_seen(make, NOW - 61, nodes=(make.node("i-1"),))


def test_workers_that_are_not_ours_are_no_ghosts(make: Make) -> None:
    workers = [ClearmlWorker(WorkerId(name), None, LONG_AGO) for name in ("desktop:0", "other:cpu:a:i-1", "c:x")]
    assert find_ghosts(Observation(instances=()), workers, "c", NOW) == ()
    assert find_ghosts(Observation(instances=None), [ClearmlWorker(worker_on("i-1"))], "c", NOW) == ()
