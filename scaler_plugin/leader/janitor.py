"""Carries out housekeeping: finished launch records, nodes whose instance is gone, instances that will never be of use.

Before an instance is terminated it is *condemned* by a transaction that compares "it has no node record" and "I lead": a sidecar
that registers late either registered first, and then nothing happens to it, or finds the mark and does not start to work.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from scaler_plugin.coordination.condemned import condemn
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.events import START_FAILED
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_book import LaunchBook
from scaler_plugin.coordination.store import Delete, Store
from scaler_plugin.core.housekeeping import Suspect, Working, find_gone_nodes, find_suspects, judge
from scaler_plugin.core.launching import is_complete, still_awaited
from scaler_plugin.core.model import Launch, LaunchId
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock, Fleet, TaskServer
from scaler_plugin.errors import CloudError
from scaler_plugin.leader.failed_start import failed_start, told_of_starts
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.problems import ProblemBoard

log = structlog.get_logger(__name__)


class Janitor:
    def __init__(
        self,
        store: Store,
        keys: Keys,
        election: Election,
        book: LaunchBook,
        server: TaskServer,
        fleet: Fleet,
        clock: Clock,
        problems: ProblemBoard,
        journal: Journal,
        clearml: GuardedService,
        terminating: GuardedService,
    ) -> None:
        self._store = store
        self._keys = keys
        self._election = election
        self._book = book
        self._server = server
        self._fleet = fleet
        self._clock = clock
        self._problems = problems
        self._journal = journal
        self._clearml = clearml
        self._terminating = terminating

    def tidy(self, observation: Observation, policy: ClusterPolicy) -> bool:
        """One pass; true if an instance was terminated, so that EC2's listing is about to change."""
        launches: dict[LaunchId, Launch] = {}
        for launch in observation.launches:
            kept = self._update_launch(launch, still_awaited(launch, observation))
            if kept is not None:
                launches[launch.launch_id] = kept
        for node in find_gone_nodes(observation, self._clock.now()):
            self._election.fenced([Delete(self._keys.node(node.instance_id))])
            log.info("node_gone", instance=node.instance_id, pool=node.pool)
            self._journal.record(
                "node_gone", node.instance_id, f"EC2 has ended {node.instance_id}; its node record was removed."
            )
        terminated = self._terminate_useless(observation, policy)
        for suspect in terminated:
            if suspect.launch_id is not None and (record := launches.get(suspect.launch_id)) is not None:
                awaited = tuple(i for i in record.awaited if i != suspect.instance_id)
                kept = self._update_launch(record, replace(record, awaited=awaited))
                if kept is not None:
                    launches[suspect.launch_id] = kept
        return bool(terminated)

    def _update_launch(self, launch: Launch, updated: Launch) -> Launch | None:
        """Write the record if it has changed; ``None`` once it is complete and gone."""
        if is_complete(updated):
            self._book.delete(self._election, launch.launch_id)
            return None
        if updated != launch:
            self._book.put(self._election, updated)
        return updated

    def _terminate_useless(self, observation: Observation, policy: ClusterPolicy) -> list[Suspect]:
        suspects = find_suspects(observation, policy, self._clock.now())
        if not suspects:
            return []
        workers = self._clearml.ask(self._server.workers)
        tasks = self._clearml.ask(lambda: self._server.open_tasks(policy.queues)) if workers is not None else None
        if workers is None or tasks is None:
            return []
        verdict = judge(suspects, workers, tasks, policy.lost_after_s, self._clock.now())
        for working in verdict.working:
            self._report_working(working)
        return [suspect for suspect in verdict.condemned if self._terminate(suspect)]

    def _terminate(self, suspect: Suspect) -> bool:
        if self._terminating.resting() or not condemn(self._election, self._store, self._keys, suspect.instance_id):
            return False
        told = told_of_starts(read_events(self._store, self._keys)).get(suspect.instance_id)
        failure = failed_start(self._fleet, suspect.instance_id, f"{suspect.cause}; it was terminated", told)
        try:
            self._fleet.terminate([suspect.instance_id])
        except CloudError as error:
            self._terminating.failed(error)
            return False
        self._terminating.answered()
        log.warning("instance_terminated", instance=suspect.instance_id, pool=suspect.pool, cause=suspect.cause)
        self._journal.record(START_FAILED, suspect.instance_id, failure.what, failure.detail)
        return True

    def _report_working(self, working: Working) -> None:
        instance = working.suspect.instance_id
        self._problems.report(
            instance,
            f"Instance {instance} {working.suspect.cause}, but its ClearML worker runs task {working.task_id}.",
            "It is left alone until the task ends. Look at its sidecar: systemctl status scaler-sidecar.",
        )
