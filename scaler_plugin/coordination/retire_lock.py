"""Retiring one at a time: protocol 4. It keeps a pool's minimum when several of its nodes decide at the same moment.

The invariant: whoever retires has decided on a picture of the pool in which no other node has retired since. The ``retire`` key
is read *before* the nodes and compared in the transaction that marks the node, so a node that retired in between makes it
fail. Not guaranteed: that a node which did not get its turn gets the next; it asks again in its next pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.coordination.store import LeaseId, ModifiedAt, Put, Store
from scaler_plugin.core.model import Node, NodeState, PoolName

#: Nodes of no pool (standbys) take turns among themselves. No pool can have this name: it would not be a valid one.
NO_POOL = PoolName("-")


def claim_retirement(
    store: Store,
    keys: Keys,
    node: Node,
    decide: Callable[[tuple[Node, ...]], bool],
    lease: LeaseId | None,
    *,
    whole_cluster: bool = False,
) -> bool:
    """Ask for this node's turn to retire; true if it has it, and then its record says ``retiring``.

    ``decide`` sees the nodes of its pool (of the cluster, with ``whole_cluster``) and says whether one more may go. ``lease`` is
    that of the node's record; a node that is not registered has no turn. Raises :class:`~scaler_plugin.errors.StoreError`; after a
    lost answer, ask again: a node whose record says ``retiring`` has had its turn.
    """
    if lease is None:
        return False
    locks = [keys.retire(node.pool or NO_POOL)]
    if whole_cluster:
        locks.append(keys.retire_any)
    seen = []
    for key in locks:
        entry = store.get(key)
        seen.append(ModifiedAt(key, entry.mod_revision if entry else 0))
    nodes = tuple(other for other in read_nodes(store, keys) if whole_cluster or other.pool == node.pool)
    if any(other.instance_id == node.instance_id and other.state is NodeState.RETIRING for other in nodes):
        return True
    if not decide(nodes):
        return False
    retiring = replace(node, state=NodeState.RETIRING)
    turns = [Put(key, encode(node.instance_id)) for key in locks]
    return store.transact(seen, [*turns, Put(keys.node(node.instance_id), encode(retiring), lease)]).succeeded
