"""Queues that no pool of the configuration serves any more while instances that served them live (``former-queues``).

Kept in etcd: neither the configuration of before nor the node that ran a task of such a queue can be asked once it is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.malformed import decode_all
from scaler_plugin.coordination.store import Put, Store
from scaler_plugin.core.model import InstanceId, QueueName


@dataclass(frozen=True)
class TakenOut:
    """Queues that were taken out of the configuration while these instances lived, any of which may have a task of theirs.

    Queues with the same instances share them, or a thousand instances with many queues would pass what etcd takes.
    """

    queues: tuple[QueueName, ...]
    instances: tuple[InstanceId, ...]


@dataclass(frozen=True)
class FormerQueues:
    """``configured`` are the queues of the configuration in force."""

    configured: tuple[QueueName, ...] = ()
    taken_out: tuple[TakenOut, ...] = ()

    @property
    def served(self) -> Mapping[QueueName, tuple[InstanceId, ...]]:
        """By queue that was taken out, the instances that may have a task of it."""
        return {queue: taken.instances for taken in self.taken_out for queue in taken.queues}


def former_queues(
    configured: tuple[QueueName, ...], served: Mapping[QueueName, tuple[InstanceId, ...]]
) -> FormerQueues:
    """As they are recorded."""
    together: dict[tuple[InstanceId, ...], list[QueueName]] = {}
    for queue, instances in sorted(served.items()):
        together.setdefault(instances, []).append(queue)
    return FormerQueues(configured, tuple(TakenOut(tuple(queues), ids) for ids, queues in together.items()))


def read_former_queues(store: Store, keys: Keys) -> FormerQueues:
    """What is recorded; a malformed record counts as none."""
    entry = store.get(keys.former_queues)
    known = decode_all(FormerQueues, [entry] if entry is not None else [])
    return known[0] if known else FormerQueues()


def put_former_queues(election: Election, keys: Keys, former: FormerQueues) -> None:
    election.fenced([Put(keys.former_queues, encode(former))])
