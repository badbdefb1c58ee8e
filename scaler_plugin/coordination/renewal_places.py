"""The places of a pool for nodes that leave for their age (``pools/<pool>/renewal/<n>``): whoever holds none waits.

A place hangs on its holder's node lease, so it is free again when the holder is gone. It limits how many go at a time and is no
promise of more.
"""

from __future__ import annotations

from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import CreatedAt, LeaseId, Put, Store
from scaler_plugin.core.model import InstanceId, PoolName


def take_place(store: Store, keys: Keys, pool: PoolName, instance_id: InstanceId, places: int, lease: LeaseId) -> bool:
    """Take one of the places, or find that we hold one. False when all are taken."""
    for place in range(places):
        key = keys.renewal(pool, place)
        if store.transact([CreatedAt(key, 0)], [Put(key, instance_id, lease)]).succeeded:
            return True
        holder = store.get(key)
        if holder is not None and holder.value == instance_id:
            return True
    return False
