"""Remembers the queues that were taken out of the configuration while nodes had tasks of theirs, until no such node is left.

Such a task may need a rescue like any other, and an instance that runs it must not look idle. Its queue is known from the slot of
its node as long as the node lives, and from etcd afterwards.

Not guaranteed: that a task in limbo is put back into such a queue (see :mod:`scaler_plugin.core.rescue`), nor that the queue
of a node is known that dies before the first pass with the new configuration.
"""

from __future__ import annotations

from collections.abc import Collection

from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.former_queues import FormerQueues, put_former_queues, read_former_queues
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import InstanceId, QueueName
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock

#: So long after the instance is gone its task must have been found stranded: the grace of a rescue and EC2's lag are two minutes.
KEPT_S = 1800.0
#: A slot's record lies where its task can write, and each name is a part of every question.
MOST_QUEUES = 100


def every_queue(store: Store, keys: Keys, observation: Observation, policy: ClusterPolicy) -> tuple[QueueName, ...]:
    """The queues that may hold a task of the cluster, for who only reads: one call to etcd."""
    recorded = read_former_queues(store, keys).served
    slots = (slot.queue for node in observation.nodes for slot in node.slots if slot.queue is not None)
    return tuple(dict.fromkeys((*policy.queues, *recorded, *slots)))


class QueuesOfNodes:
    """The one that keeps the record."""

    def __init__(self, store: Store, keys: Keys, election: Election, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._election = election
        self._clock = clock
        self._recorded: dict[QueueName, tuple[InstanceId, ...]] | None = None
        self._gone_since: dict[InstanceId, float] = {}

    def follow(
        self, observation: Observation, policy: ClusterPolicy, in_use: Collection[QueueName | None] = ()
    ) -> tuple[QueueName, ...]:
        """Every queue that may hold a task of the cluster: the configured ones, then the former.

        Args:
            observation: the pass's picture.
            policy: the configuration.
            in_use: queues of tasks that are about to be rescued, which are kept.
        """
        if self._recorded is None:
            self._recorded = read_former_queues(self._store, self._keys).served
        served = {queue: set(ids) for queue, ids in self._recorded.items()}
        recorded = self._recorded
        for node in observation.nodes:
            for slot in node.slots:
                if slot.queue is not None:
                    served.setdefault(slot.queue, set()).add(node.instance_id)
        kept = {
            queue: tuple(sorted(left))
            for queue, ids in sorted(served.items())
            if queue not in policy.queues
            and (left := ids if queue in in_use else self._not_long_gone(ids, observation))
        }
        kept = dict(sorted(kept.items(), key=lambda item: item[0] not in recorded)[:MOST_QUEUES])
        if kept != self._recorded:
            put_former_queues(self._election, self._keys, FormerQueues(kept))
            self._recorded = kept
        return (*policy.queues, *kept)

    def _not_long_gone(self, ids: Collection[InstanceId], observation: Observation) -> set[InstanceId]:
        if observation.instances is None:
            return set(ids)
        now = self._clock.monotonic()
        living = {i.instance_id for i in observation.instances if not i.state.ending} | observation.node_ids
        for instance_id in ids:
            if instance_id in living - observation.ending:
                self._gone_since.pop(instance_id, None)
            else:
                self._gone_since.setdefault(instance_id, now)
        return {i for i in ids if now - self._gone_since.get(i, now) < KEPT_S}
