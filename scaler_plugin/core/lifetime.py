"""When a node has come of age, and when one that leaves for its age may go.

A node of ``max_lifetime`` drains: no further task, the running one finishes, then it ends. It is replaced *first*: a draining node
is no supply, so the leader launches another for its demand or its pool's minimum, and an idle node waits for that before it ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from scaler_plugin.core.model import Node, NodeRole, NodeState
from scaler_plugin.core.policy import PoolPolicy

#: At most this part of a pool leaves for its age at the same time, and at least one node.
RENEWED_AT_ONCE = 0.1


def of_age(born_at: float, pool: PoolPolicy, now: float) -> bool:
    return pool.max_lifetime_s is not None and now - born_at >= pool.max_lifetime_s


def places(pool: PoolPolicy) -> int:
    """How many nodes of the pool may leave for their age at the same time."""
    return max(1, int(pool.max_instances * RENEWED_AT_ONCE))


def is_replaced(node: Node, pool: PoolPolicy, nodes: Sequence[Node]) -> bool:
    """Whether the pool has its minimum without this node."""
    others = sum(
        1
        for other in nodes
        if other.instance_id != node.instance_id
        and other.pool == pool.name
        and other.identity.role is NodeRole.WORKER
        and other.state is NodeState.UP
    )
    return others >= pool.min_instances
