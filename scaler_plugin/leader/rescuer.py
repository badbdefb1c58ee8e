"""Puts tasks back that no one will ever run, and takes workers off ClearML's list whose instance is gone.

Sweeps cost calls to ClearML beyond the one of a pass, so they are made where something may be stranded: while nodes are busy, tasks
are open or instances end; otherwise only now and then. What looks stranded is acted upon when the next sweep sees the same.

Guarantees: a task that the server refuses to have put back holds up no other. A sweep may see a part of the tasks only
(:mod:`scaler_plugin.leader.open_tasks`): a task that it has not seen is neither rescued nor forgotten. Not guaranteed: how soon
one of a long backlog is found; from then on it is looked at in each sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import InstanceId, QueueName, ServerTask, TaskId
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock, TaskServer
from scaler_plugin.core.rescue import Duplicate, Stranded, confirmed, find_duplicates, find_ghosts, find_stranded
from scaler_plugin.errors import NotLeader, TaskServerError, TaskServerRefused
from scaler_plugin.leader.former_queues import QueuesOfInstances
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.open_tasks import OpenTasks
from scaler_plugin.leader.problems import ProblemBoard
from scaler_plugin.leader.refused_tasks import RefusedTasks

log = structlog.get_logger(__name__)

#: Between two sweeps while something runs or waits: a task in limbo is found within its grace and two of these.
SWEEP_S = 15.0
#: To the sweep that confirms what was found, and after an instance has ended.
CONFIRM_S = 5.0
#: Between two sweeps of a cluster in which nothing happens.
SWEEP_QUIET_S = 600.0
#: Each rescue is five calls: a pass begins no further one after this, far below the time in which it counts as hung.
RESCUES_S = 5.0


class Rescuer:
    def __init__(
        self,
        store: Store,
        keys: Keys,
        election: Election,
        server: TaskServer,
        clock: Clock,
        problems: ProblemBoard,
        journal: Journal,
        clearml: GuardedService,
    ) -> None:
        self._election = election
        self._server = server
        self._clock = clock
        self._problems = problems
        self._journal = journal
        self._clearml = clearml
        self._queues = QueuesOfInstances(store, keys, election, clock)
        self._reading = OpenTasks(server, clock, clearml)
        self._refused = RefusedTasks(clock, problems, clearml)
        self._next_at = float("-inf")
        self._found: dict[TaskId, Stranded] = {}
        self._something_open = False
        self._last_added: Mapping[QueueName, float | None] = {}  # as of the last sweep
        self._duplicates: frozenset[Duplicate] = frozenset()  # those that an event tells of
        self._swept = False
        self._ended: frozenset[InstanceId] | None = None  # those whose ghosts have been looked for

    @property
    def suspects(self) -> int | None:
        """How many tasks look stranded; ``None`` before every open task was looked at once."""
        return len(self._found) if self._swept else None

    def sweep(self, observation: Observation, policy: ClusterPolicy) -> None:
        """One pass; does nothing when it is not time. Raises ``NotLeader`` when leadership ends on the way."""
        self._report_duplicates(observation)
        self._refused.report()
        if observation.instances is None or observation.backlogs is None:
            return
        queues = self._queues.follow(observation, policy, {stranded.task.queue for stranded in self._found.values()})
        now = self._clock.monotonic()
        newly_ended = observation.ending - (self._ended or frozenset())
        if newly_ended:
            self._next_at = min(self._next_at, now)
        elif self._something_happens(observation):
            self._next_at = min(self._next_at, now + SWEEP_S)
        due = now >= self._next_at
        if not due and not self._reading.under_way:
            return
        seen = self._reading.sweep(queues, self._by_urgency()) if due else self._reading.go_on(queues)
        if seen is None:
            return
        found = find_stranded(observation, seen.tasks, policy, self._found, self._clock.now(), now)
        looked_at = {task.task_id for task in seen.tasks}
        self._found = {
            **{i: before for i, before in self._found.items() if i not in looked_at and not seen.covers(i)},
            **{stranded.task.task_id: stranded for stranded in found},
        }
        self._refused.forget_all_but(self._found)
        self._swept = self._swept or self._reading.all_met
        if due:
            self._something_open = bool(seen.tasks) or not seen.whole
            self._last_added = {queue: backlog.last_added_at for queue, backlog in observation.backlogs.items()}
            self._next_at = now + SWEEP_QUIET_S
        if any(not self._refused.left_alone(stranded.task.task_id) for stranded in found):
            self._next_at = min(self._next_at, now + CONFIRM_S)
        if not self._rescue_all(confirmed(found, now), policy):
            self._next_at = now  # a pass of the leader must end; the next one goes on where it looks again
        if newly_ended or self._ended is None:
            self._unregister_ghosts(observation, policy)

    def _something_happens(self, observation: Observation) -> bool:
        return (
            self._something_open
            or any(node.busy for node in observation.nodes)
            or any(
                len(backlog) or backlog.last_added_at != self._last_added.get(backlog.queue)
                for backlog in (observation.backlogs or {}).values()
            )
        )

    def _by_urgency(self) -> list[TaskId]:
        """What looks stranded, the longest first; last those that the server would refuse once more."""
        found = sorted(self._found.values(), key=lambda one: (self._refused.left_alone(one.task.task_id), one.since))
        return [stranded.task.task_id for stranded in found]

    def _rescue_all(self, stranded: Sequence[Stranded], policy: ClusterPolicy) -> bool:
        """False when some are left for want of time."""
        began = self._clock.monotonic()
        self._refused.begin_pass()
        for one in stranded:
            if self._refused.left_alone(one.task.task_id):
                continue
            if self._refused.enough:
                return True
            if self._clock.monotonic() - began >= RESCUES_S:
                return False
            self._rescue(one, policy)
        return True

    def _rescue(self, stranded: Stranded, policy: ClusterPolicy) -> None:
        task, queue = stranded.task, stranded.task.queue
        if queue is None:
            return
        if self._election.leadership is None:
            raise NotLeader("Leadership ended before a task was put back; the successor finds it again.")
        if task.requeues >= policy.max_requeues:
            self._give_up(stranded, task)
            return
        reason = f"{stranded.sentence} Put back by scaler-sidecar ({task.requeues + 1} of {policy.max_requeues})."
        if self._refused.ask(task.task_id, lambda: self._server.requeue(task, queue, reason)):
            log.warning("task_rescued", task=task.task_id, cause=stranded.cause.value, instance=stranded.on)
            self._journal.record("rescued", task.task_id, reason, detail=stranded.cause.value)

    def _give_up(self, stranded: Stranded, task: ServerTask) -> None:
        reason = f"{stranded.sentence} It was put back {task.requeues} times before and is not tried again."
        if self._refused.ask(task.task_id, lambda: self._server.fail_task(task, reason)):
            log.warning("task_given_up", task=task.task_id, cause=stranded.cause.value, requeues=task.requeues)
            self._journal.record("rescue_given_up", task.task_id, reason, detail=stranded.cause.value)

    def _report_duplicates(self, observation: Observation) -> None:
        duplicates = find_duplicates(observation.live_nodes)
        for duplicate in duplicates:
            sentence = f"Task {duplicate.task_id} runs on {' and '.join(duplicate.nodes)} at the same time."
            self._problems.report(
                f"task {duplicate.task_id}",
                sentence,
                "Abort it in ClearML and enqueue it once; see the events for how it came to be there.",
            )
            if duplicate not in self._duplicates:
                self._journal.record("task_on_two_nodes", duplicate.task_id, sentence)
        self._duplicates = frozenset(duplicates)

    def _unregister_ghosts(self, observation: Observation, policy: ClusterPolicy) -> None:
        workers = self._clearml.ask(self._server.workers)
        if workers is None:
            return
        for worker_id in find_ghosts(observation, workers, policy.cluster, self._clock.now()):
            log.info("unregistering_ghost", worker=worker_id)
            try:
                self._server.unregister_worker(worker_id)
            except TaskServerRefused as refused:
                # It leaves the list by itself, 600 s after its last report; the others need not wait for that.
                log.warning("ghost_not_unregistered", worker=worker_id, error=str(refused))
            except TaskServerError as error:
                self._clearml.failed(error)
                return
        self._ended = observation.ending
