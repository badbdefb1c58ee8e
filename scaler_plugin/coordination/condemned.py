"""The mark on an instance that the leader is about to terminate because it never registered.

Whoever comes first wins: the leader's mark compares "no node record", a node's first registration compares "no mark".
So an instance that is late by a moment either works and is left alone, or is ended and never starts to work.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import CreatedAt, Delete, Put, Store
from scaler_plugin.core.model import InstanceId
from scaler_plugin.errors import NotLeader, StoreError

#: The mark goes by itself once the instance is certainly gone.
MARK_TTL_S = 3600


def condemn(election: Election, store: Store, keys: Keys, instance_id: InstanceId) -> bool:
    """Put the mark, fenced; false if the node has registered meanwhile.

    A mark that is there already stays as it is: no node registers past it. Raises :class:`~scaler_plugin.errors.NotLeader`.
    """
    key = keys.condemned(instance_id)
    if store.get(key) is not None:
        if election.leadership is None:
            raise NotLeader(f"leadership ended before {instance_id} was terminated; the successor decides anew")
        return True
    lease = store.grant_lease(MARK_TTL_S)
    try:
        marked = election.fenced([Put(key, "{}", lease)], compare=[CreatedAt(keys.node(instance_id), 0)])
    except NotLeader:
        store.revoke_lease(lease)
        raise
    if not marked:
        store.revoke_lease(lease)
    return marked


def pardon(election: Election, store: Store, keys: Keys, instance_ids: Collection[InstanceId]) -> None:
    """Take off whatever marks these bear, fenced: their nodes may register. Raises :class:`~scaler_plugin.errors.NotLeader`."""
    if not instance_ids:
        return
    pardoned = {keys.condemned(instance_id) for instance_id in instance_ids}
    for mark in store.get_prefix(keys.condemned(InstanceId(""))):
        if mark.key not in pardoned:
            continue
        election.fenced([Delete(mark.key)])
        if mark.lease is not None:
            with suppress(StoreError):  # it runs out
                store.revoke_lease(mark.lease)


def not_condemned(keys: Keys, instance_id: InstanceId) -> CreatedAt:
    """The comparison that a node's registration carries."""
    return CreatedAt(keys.condemned(instance_id), 0)
