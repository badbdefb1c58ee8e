"""Whether a node may end itself, and why not.

Guarantees: a node with a busy slot never retires; nor does one whose queues have a backlog as far as a fresh
view tells; nor one that the pool's minimum or the zero mode needs, on the snapshot that the caller commits to by
compare-and-swap. It does not guard against a pull that begins meanwhile: that is the gate's part
(:mod:`scaler_plugin.agent.gate`), and the caller decides again behind closed gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scaler_plugin.core.model import Node, NodeRole, NodeState
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy, ZeroMode

#: How much longer than ``idle_timeout`` an idle node stays when etcd is away: long enough for a restart or an election of
#: etcd itself, short against what an idle GPU machine costs.
ETCD_AWAY_GRACE_S = 300.0


@dataclass(frozen=True)
class Surroundings:
    """What a node knows of the cluster when it decides about itself.

    ``backlog`` is the number of tasks waiting in the node's queues, ``None`` when no fresh view says so. ``nodes`` are all
    nodes as last seen, itself among them; they are only asked for when :func:`needs_the_others` says so.
    """

    nodes: tuple[Node, ...] = ()
    backlog: int | None = None
    etcd_away: bool = False
    was_leader: bool = False  # this node led when etcd was last heard
    protected: str | None = None  # why an idle node has to stay all the same


@dataclass(frozen=True)
class RetirementVerdict:
    retire: bool
    reason: str


def idle_long_enough(node: Node, pool: PoolPolicy, etcd_away: bool, now: float) -> RetirementVerdict:
    """The node's own part of the decision, which costs no question to anybody.

    Args:
        node: the node itself, with its slots as they are at this moment.
        pool: the rules of its pool.
        etcd_away: whether etcd does not answer.
        now: seconds since the epoch.
    """
    if node.busy:
        return _stay("A slot is busy.")
    if node.leaving:
        return _go(node.reason)
    idle_since = node.idle_since
    if idle_since is None:
        return _agent_missing_long_enough(node, pool, now)
    if pool.idle_timeout_s is None:
        return _stay(f"Pool {pool.name} has idle_timeout: never.")
    idle_s = now - idle_since
    wait_s = pool.idle_timeout_s + (ETCD_AWAY_GRACE_S if etcd_away else 0.0)
    if idle_s < wait_s:
        return _stay(f"It has been idle for {idle_s:.0f} s of {wait_s:.0f} s.")
    return _go(f"Idle for {idle_s:.0f} s; idle_timeout of pool {pool.name} is {pool.idle_timeout_s:.0f} s.")


def _agent_missing_long_enough(node: Node, pool: PoolPolicy, now: float) -> RetirementVerdict:
    """A node whose agent does not come up, or does not come back, costs money and serves nobody."""
    if not node.slots:
        return _stay("It has no slot.")
    missing_s = now - max(slot.since for slot in node.slots)
    wait_s = max(pool.startup_timeout_s, pool.idle_timeout_s or 0.0)
    if missing_s < wait_s:
        return _stay(f"An agent has not polled for {missing_s:.0f} s of {wait_s:.0f} s.")
    return _go(f"An agent of it has not polled for {missing_s:.0f} s; see its log.")


def may_retire(
    node: Node, policy: ClusterPolicy, pool: PoolPolicy, surroundings: Surroundings, now: float
) -> RetirementVerdict:
    """Decide whether the node may start to retire now; the reason is a sentence either way."""
    own = idle_long_enough(node, pool, surroundings.etcd_away, now)
    if not own.retire or node.leaving:
        return own
    if surroundings.protected:
        return _stay(surroundings.protected)
    if surroundings.etcd_away and surroundings.was_leader:
        return _stay("etcd is away and this node was the leader: it stays to lead again.")
    if surroundings.backlog and _serves(node):
        return _stay(f"{surroundings.backlog} tasks wait in its queues.")
    leave = may_leave_unheard if surroundings.etcd_away else may_leave
    if needs_the_others(policy, pool) and not leave(node, policy, pool, surroundings.nodes):
        return _stay(
            f"The cluster needs it: min_instances of pool {pool.name} is {pool.min_instances}, "
            f"zero mode is {policy.zero_mode.value}."
        )
    return own


def _serves(node: Node) -> bool:
    """Whether the (not busy) node would take a waiting task."""
    return node.idle_since is not None


def needs_the_others(policy: ClusterPolicy, pool: PoolPolicy) -> bool:
    """Whether the other nodes matter at all: reading them costs etcd much in a large cluster."""
    return pool.min_instances > 0 or policy.zero_mode is ZeroMode.KEEP_ONE


def may_leave(node: Node, policy: ClusterPolicy, pool: PoolPolicy, nodes: Sequence[Node]) -> bool:
    """Whether the pool's minimum and the zero mode still hold on this snapshot when ``node`` has left.

    A node without a working agent adds nothing to the minimum: it goes, and another one is launched in its place.
    """
    others = [other for other in nodes if other.instance_id != node.instance_id and other.state is NodeState.UP]
    in_pool = sum(1 for other in others if other.pool == pool.name and other.identity.role is NodeRole.WORKER)
    if in_pool < pool.min_instances and _serves(node):
        return False
    return policy.zero_mode is not ZeroMode.KEEP_ONE or bool(others)


def may_leave_unheard(node: Node, policy: ClusterPolicy, pool: PoolPolicy, nodes: Sequence[Node]) -> bool:
    """The same without etcd, where nobody can be asked: nodes agree by the order of their ids who has to stay.

    The first ``min_instances`` of the pool, and under ``keep_one`` the first of all, stay. Whoever saw nobody stays too.
    """
    up = sorted(other.instance_id for other in nodes if other.state is NodeState.UP)
    in_pool = sorted(other.instance_id for other in nodes if other.state is NodeState.UP and other.pool == pool.name)
    if node.instance_id not in in_pool or node.instance_id in in_pool[: pool.min_instances]:
        return False
    return policy.zero_mode is not ZeroMode.KEEP_ONE or node.instance_id != up[0]


def _stay(reason: str) -> RetirementVerdict:
    return RetirementVerdict(False, reason)


def _go(reason: str) -> RetirementVerdict:
    return RetirementVerdict(True, reason)
