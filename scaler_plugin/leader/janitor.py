"""Carries out housekeeping: finished launch records, nodes whose instance is gone, instances that will never be of use.

Before an instance is terminated it is *condemned* by a transaction that compares "it has no node record" and "I lead": a sidecar
that registers late either registered first, and then nothing happens to it, or finds the mark and does not start to work.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from scaler_plugin.coordination.condemned import condemn
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_book import LaunchBook
from scaler_plugin.coordination.store import Delete, Store
from scaler_plugin.core.housekeeping import Suspect, Working, find_gone_nodes, find_suspects, judge
from scaler_plugin.core.launching import is_complete, still_awaited
from scaler_plugin.core.model import Launch
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock, Fleet, TaskServer
from scaler_plugin.errors import CloudError
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.problems import ProblemBoard

log = structlog.get_logger(__name__)

#: How much of a failed start's console output is kept: its end, where the error is, small enough for an etcd value.
CONSOLE_TAIL_CHARS = 8_000


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
        ec2: GuardedService,
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
        self._ec2 = ec2

    def tidy(self, observation: Observation, policy: ClusterPolicy) -> bool:
        """One pass; true if an instance was terminated, so that EC2's listing is about to change."""
        for launch in observation.launches:
            self._update_launch(launch, still_awaited(launch, observation))
        for node in find_gone_nodes(observation, self._clock.now()):
            self._election.fenced([Delete(self._keys.node(node.instance_id))])
            log.info("node_gone", instance=node.instance_id, pool=node.pool)
            self._journal.record(
                "node_gone", node.instance_id, f"EC2 has ended {node.instance_id}; its node record was removed."
            )
        return self._terminate_useless(observation, policy)

    def _update_launch(self, launch: Launch, updated: Launch) -> None:
        if is_complete(updated):
            self._book.delete(self._election, launch.launch_id)
        elif updated != launch:
            self._book.put(self._election, updated)

    def _terminate_useless(self, observation: Observation, policy: ClusterPolicy) -> bool:
        suspects = find_suspects(observation, policy, self._clock.now())
        if not suspects:
            return False
        workers = self._clearml.ask(self._server.workers)
        if workers is None:
            return False
        verdict = judge(suspects, workers)
        for working in verdict.working:
            self._report_working(working)
        launches = {launch.launch_id: launch for launch in observation.launches}
        for suspect in verdict.condemned:
            if suspect.launch_id is not None:
                launch = launches[suspect.launch_id]
                launches[suspect.launch_id] = replace(
                    launch, awaited=tuple(i for i in launch.awaited if i != suspect.instance_id)
                )
        terminated = [suspect for suspect in verdict.condemned if self._terminate(suspect)]
        given_up = {suspect.launch_id for suspect in terminated if suspect.launch_id is not None}
        for launch in observation.launches:
            if launch.launch_id in given_up:
                self._update_launch(launch, launches[launch.launch_id])
        return bool(terminated)

    def _terminate(self, suspect: Suspect) -> bool:
        if not self._ec2.available or not condemn(self._election, self._store, self._keys, suspect.instance_id):
            return False
        console = self._console_tail(suspect)
        try:
            self._fleet.terminate([suspect.instance_id])
        except CloudError as error:
            self._ec2.failed(error)
            return False
        sentence = f"Instance {suspect.instance_id} {suspect.cause}; it was terminated."
        log.warning("instance_terminated", instance=suspect.instance_id, pool=suspect.pool, cause=suspect.cause)
        self._journal.record("start_failed", suspect.instance_id, sentence, console)
        return True

    def _console_tail(self, suspect: Suspect) -> str:
        try:
            return self._fleet.console_output(suspect.instance_id)[-CONSOLE_TAIL_CHARS:]
        except CloudError as error:
            return f"(The console output could not be read: {error})"

    def _report_working(self, working: Working) -> None:
        instance = working.suspect.instance_id
        self._problems.report(
            instance,
            f"Instance {instance} {working.suspect.cause}, but its ClearML worker runs task {working.task_id}.",
            "It is left alone until the task ends. Look at its sidecar: systemctl status scaler-sidecar.",
        )
