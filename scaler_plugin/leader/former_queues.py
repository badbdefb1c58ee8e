"""Remembers the queues that were taken out of the configuration, until every instance that may have served them is gone.

A task of theirs may need a rescue like any other, and an instance that runs one must not look idle.

Not guaranteed: that a task in limbo is put back into such a queue (see :mod:`scaler_plugin.core.rescue`).
"""

from __future__ import annotations

from collections.abc import Collection

from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.former_queues import (
    FormerQueues,
    former_queues,
    put_former_queues,
    read_former_queues,
)
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import InstanceId, NodeRole, QueueName
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock

#: So long after the instance is gone its task must have been found stranded: the grace of a rescue and EC2's lag are two minutes.
KEPT_S = 1800.0


def every_queue(store: Store, keys: Keys, policy: ClusterPolicy) -> tuple[QueueName, ...]:
    """The queues that may hold a task of the cluster, for who only reads: one call to etcd."""
    former = read_former_queues(store, keys)
    return tuple(dict.fromkeys((*policy.queues, *former.configured, *former.served)))


class QueuesOfInstances:
    """The one that keeps the record."""

    def __init__(self, store: Store, keys: Keys, election: Election, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._election = election
        self._clock = clock
        self._recorded: FormerQueues | None = None
        self._gone_since: dict[InstanceId, float] = {}

    def follow(
        self, observation: Observation, policy: ClusterPolicy, in_use: Collection[QueueName | None] = ()
    ) -> tuple[QueueName, ...]:
        """Every queue that may hold a task of the cluster: the configured ones, then the former.

        Args:
            observation: the pass's picture, with EC2's listing.
            policy: the configuration.
            in_use: queues of tasks that are about to be rescued, which are kept.
        """
        recorded = self._recorded or read_former_queues(self._store, self._keys)
        living = _living_workers(observation)
        served = {queue: set(ids) for queue, ids in recorded.served.items()}
        for queue in recorded.configured:
            if queue not in policy.queues:
                served.setdefault(queue, set()).update(living)
        self._follow_gone({i for ids in served.values() for i in ids} - living)
        kept = {
            queue: tuple(sorted(ids))
            for queue, ids in served.items()
            if queue not in policy.queues and (queue in in_use or any(self._lately_seen(i) for i in ids))
        }
        former = former_queues(policy.queues, kept)
        if former != recorded:
            put_former_queues(self._election, self._keys, former)
        self._recorded = former
        return (*policy.queues, *kept)

    def _follow_gone(self, gone: Collection[InstanceId]) -> None:
        now = self._clock.monotonic()
        self._gone_since = {i: self._gone_since.get(i, now) for i in gone}

    def _lately_seen(self, instance_id: InstanceId) -> bool:
        now = self._clock.monotonic()
        return now - self._gone_since.get(instance_id, now) < KEPT_S


def _living_workers(observation: Observation) -> set[InstanceId]:
    nodes = {node.instance_id for node in observation.live_nodes if node.identity.role is NodeRole.WORKER}
    listed = {i.instance_id for i in observation.instances or () if i.role is NodeRole.WORKER and not i.state.ending}
    return nodes | listed
