"""The promises to put interrupted tasks back (``handbacks/<instance-id>/<task-id>``).

A node writes its own and deletes them when they are kept; the leader keeps those of nodes that are gone, fenced.
"""

from __future__ import annotations

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.malformed import decode_all
from scaler_plugin.coordination.store import Delete, Put, Store
from scaler_plugin.core.handback import Handback
from scaler_plugin.core.model import InstanceId, TaskId


def promise(store: Store, keys: Keys, handback: Handback) -> None:
    store.transact([], [Put(keys.handback(handback.instance_id, handback.task_id), encode(handback))])


def forget(store: Store, keys: Keys, instance_id: InstanceId, task_id: TaskId) -> None:
    store.transact([], [Delete(keys.handback(instance_id, task_id))])


def read_handbacks(store: Store, keys: Keys, instance_id: InstanceId | None = None) -> tuple[Handback, ...]:
    """One node's promises, or everybody's. A malformed one is skipped."""
    prefix = keys.handbacks if instance_id is None else f"{keys.handbacks}{instance_id}/"
    return decode_all(Handback, store.get_prefix(prefix))
