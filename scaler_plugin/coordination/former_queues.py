"""Queues that no pool of the configuration serves any more while instances that served them live (``former-queues``).

Kept in etcd: neither the configuration of before nor the node that ran a task of such a queue can be asked once it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.malformed import decode_all
from scaler_plugin.coordination.store import Put, Store
from scaler_plugin.core.model import InstanceId, QueueName


@dataclass(frozen=True)
class FormerQueues:
    """``configured`` are the queues of the configuration in force. ``served``: by queue, the instances that lived when it was
    taken out of the configuration, any of which may have a task of it."""

    configured: tuple[QueueName, ...] = ()
    served: dict[QueueName, tuple[InstanceId, ...]] = field(default_factory=dict)


def read_former_queues(store: Store, keys: Keys) -> FormerQueues:
    """What is recorded; a malformed record counts as none."""
    entry = store.get(keys.former_queues)
    known = decode_all(FormerQueues, [entry] if entry is not None else [])
    return known[0] if known else FormerQueues()


def put_former_queues(election: Election, keys: Keys, former: FormerQueues) -> None:
    election.fenced([Put(keys.former_queues, encode(former))])
