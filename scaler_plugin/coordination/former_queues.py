"""Queues that no pool of the configuration serves any more while tasks of theirs still run (``former-queues``).

Kept in etcd: a node's record, which names the queue of its task, goes with the node, and with it perhaps the leader.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.malformed import decode_all
from scaler_plugin.coordination.store import Delete, Put, Store
from scaler_plugin.core.model import InstanceId, QueueName


@dataclass(frozen=True)
class FormerQueues:
    """Which instances have run a task of which queue."""

    served: dict[QueueName, tuple[InstanceId, ...]]


def read_former_queues(store: Store, keys: Keys) -> FormerQueues:
    """What is recorded; a malformed record counts as none."""
    entry = store.get(keys.former_queues)
    known = decode_all(FormerQueues, [entry] if entry is not None else [])
    return known[0] if known else FormerQueues({})


def put_former_queues(election: Election, keys: Keys, former: FormerQueues) -> None:
    """Write the record, or remove it when it says nothing."""
    election.fenced([Put(keys.former_queues, encode(former)) if former.served else Delete(keys.former_queues)])
