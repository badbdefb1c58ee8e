"""Carries out housekeeping: finished launch records, nodes whose instance is gone, instances that will never be of use (the
last of these by :mod:`scaler_plugin.leader.terminating`)."""

from __future__ import annotations

from dataclasses import replace

import structlog

from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_book import LaunchBook
from scaler_plugin.coordination.store import Delete, Store
from scaler_plugin.core.housekeeping import find_gone_nodes, find_vanished
from scaler_plugin.core.launching import is_complete, still_awaited
from scaler_plugin.core.model import InstanceId, Launch, LaunchId
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock, Fleet, TaskServer
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.problems import ProblemBoard
from scaler_plugin.leader.terminating import Terminating

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
        self._keys = keys
        self._election = election
        self._book = book
        self._clock = clock
        self._journal = journal
        self._terminating = Terminating(
            store, keys, election, server, fleet, clock, problems, journal, clearml, terminating
        )

    def tidy(self, observation: Observation, policy: ClusterPolicy) -> bool:
        """One pass; true if an instance was terminated, so that EC2's listing is about to change."""
        launches: dict[LaunchId, Launch] = {}
        for launch in observation.launches:
            vanished = find_vanished(launch, observation, policy, self._clock.now())
            kept = self._update_launch(launch, _without(still_awaited(launch, observation), vanished))
            for instance_id in sorted(vanished):
                self._journal.record(
                    "instance_vanished",
                    instance_id,
                    f"EC2 does not list {instance_id} any more, and it never registered; nobody waits for it.",
                )
            if kept is not None:
                launches[launch.launch_id] = kept
        for node in find_gone_nodes(observation, self._clock.now()):
            self._election.fenced([Delete(self._keys.node(node.instance_id))])
            log.info("node_gone", instance=node.instance_id, pool=node.pool)
            self._journal.record(
                "node_gone", node.instance_id, f"EC2 has ended {node.instance_id}; its node record was removed."
            )
        ended = self._terminating.step(observation, policy)
        ids = frozenset(suspect.instance_id for suspect in ended)
        for launch_id in dict.fromkeys(suspect.launch_id for suspect in ended):
            if launch_id is not None and launch_id in launches:
                self._update_launch(launches[launch_id], _without(launches[launch_id], ids))
        return bool(ended)

    def _update_launch(self, launch: Launch, updated: Launch) -> Launch | None:
        """Write the record if it has changed; ``None`` once it is complete and gone."""
        if is_complete(updated):
            self._book.delete(self._election, launch.launch_id)
            return None
        if updated != launch:
            self._book.put(self._election, updated)
        return updated


def _without(launch: Launch, instance_ids: frozenset[InstanceId]) -> Launch:
    """The record when nobody waits for these instances any more."""
    return replace(launch, awaited=tuple(i for i in launch.awaited if i not in instance_ids))
