"""What nodes that are gone have left in etcd: promises to put tasks back, which the leader keeps, and requests, which it removes.

A node that is interrupted promises before it lets its task be stopped (:mod:`scaler_plugin.core.handback`) and keeps its promise
itself. This is for one that did not live to: a ``stopped`` task is in nobody's rescue. A promise that the server refuses to have
kept waits alone.
"""

from __future__ import annotations

import structlog

from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.handbacks import read_handbacks
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.requests import read_all_requests, request_key
from scaler_plugin.coordination.store import Delete, Store
from scaler_plugin.core.handback import Handback, HandbackAct, judge_handback
from scaler_plugin.core.housekeeping import LISTING_LAG_S
from scaler_plugin.core.model import InstanceId
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock, TaskServer
from scaler_plugin.core.requests import is_over
from scaler_plugin.errors import NotLeader
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.problems import ProblemBoard
from scaler_plugin.leader.refused_tasks import RefusedTasks

log = structlog.get_logger(__name__)

#: Two small reads of etcd: often enough for a task to be back within seconds of its node's end.
SWEEP_S = 5.0
#: A request for a node that nobody knows is kept for so long: it may be registering again, or EC2 may not list it yet.
REQUEST_KEPT_S = 300.0


class LegacyOfNodes:
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
        self._store = store
        self._keys = keys
        self._election = election
        self._server = server
        self._clock = clock
        self._journal = journal
        self._refused = RefusedTasks(clock, problems, clearml)
        self._next_at = float("-inf")

    def sweep(self, observation: Observation, policy: ClusterPolicy) -> None:
        """One pass; does nothing when it is not time or EC2 could not be listed."""
        self._refused.report()
        now = self._clock.monotonic()
        if now < self._next_at or observation.instances is None:
            return
        self._next_at = now + SWEEP_S
        promised = read_handbacks(self._store, self._keys)
        self._refused.forget_all_but({handback.task_id for handback in promised})
        self._refused.begin_pass()
        for handback in promised:
            if self._gone(handback, observation) and not self._refused.left_alone(handback.task_id):
                if self._refused.enough:
                    break
                self._keep(handback, policy)
        self._remove_requests(observation)

    def _gone(self, handback: Handback, observation: Observation) -> bool:
        """Whether nothing runs on the node any more, or will in a moment."""
        instance_id = handback.instance_id
        if instance_id in observation.ending:
            return True
        listed = any(instance.instance_id == instance_id for instance in observation.instances or ())
        old = self._clock.now() - handback.promised_at > LISTING_LAG_S
        return old and not listed and instance_id not in observation.node_ids

    def _keep(self, handback: Handback, policy: ClusterPolicy) -> None:
        # In a tuple: that the task is gone is an answer too, and ``None`` says that there was none.
        answer = self._refused.ask(handback.task_id, lambda: (self._server.find_task(handback.task_id),))
        if answer is None:
            return
        found = answer[0]
        task = found.task if found is not None else None
        if self._election.leadership is None:
            raise NotLeader("Leadership ended before a promise was kept; the successor finds it again.")
        verdict = judge_handback(task, handback.worker_id, handback, policy.max_requeues)
        done: bool | None = True
        if task is not None and verdict.act is not HandbackAct.LEAVE:
            sentence = f"Task {task.task_id} was stopped on {handback.instance_id}, which has ended. {handback.reason}"
            queue = task.queue or handback.queue
            if verdict.act is HandbackAct.REQUEUE:
                done = self._refused.ask(task.task_id, lambda: self._server.requeue(task, queue, sentence))
                kind, sentence = "task_handed_back", f"{sentence} It is back in queue {queue}."
            else:
                sentence = f"{sentence} It is not tried again: {verdict.why}."
                done = self._refused.ask(task.task_id, lambda: self._server.fail_task(task, sentence))
                kind = "task_failed"
            if done:
                self._journal.record(kind, handback.instance_id, sentence)
        if done:
            self._election.fenced([Delete(self._keys.handback(handback.instance_id, handback.task_id))])
            log.info("promise_kept", task_id=handback.task_id, instance=handback.instance_id, why=verdict.why)

    def _remove_requests(self, observation: Observation) -> None:
        known: frozenset[InstanceId] = observation.node_ids | {
            instance.instance_id for instance in observation.instances or () if not instance.state.ending
        }
        now = self._clock.now()
        for asked in read_all_requests(self._store, self._keys):
            if is_over(asked, known, REQUEST_KEPT_S, now):
                self._election.fenced([Delete(request_key(self._keys, asked))])
