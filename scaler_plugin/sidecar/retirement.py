"""Brings a node to the point where it may end: decides, closes the gates, decides again, and agrees with the others.

Guarantees: when :meth:`Retirement.step` answers with a reason, every gate is held, every slot was seen idle behind closed gates,
and (with etcd) the node's record says ``retiring`` by a transaction that kept the pool's minimum. Otherwise the gates are open,
unless the node was leaving anyway.
"""

from __future__ import annotations

from dataclasses import replace

from scaler_plugin.coordination.election import read_leader
from scaler_plugin.coordination.published_view import read_view
from scaler_plugin.coordination.registry import Registry, read_nodes
from scaler_plugin.coordination.retire_lock import claim_retirement
from scaler_plugin.core.model import Node, NodeState
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy
from scaler_plugin.core.retirement import (
    RetirementVerdict,
    Surroundings,
    idle_long_enough,
    may_leave,
    may_retire,
    needs_the_others,
)
from scaler_plugin.errors import RecordMalformed, StoreError
from scaler_plugin.sidecar.etcd_contact import EtcdContact
from scaler_plugin.sidecar.ports import NodePorts

#: How often a node that others may need reads who they are, for the case that etcd goes away.
ACQUAINTANCE_INTERVAL_S = 60.0

#: A node that has been idle for long enough and has to stay for a backlog asks again after so long …
ASK_AGAIN_S = 5.0
#: … and one that the others need after so long: the answer needs every node's record.
ASK_THE_OTHERS_AGAIN_S = 30.0


class Retirement:
    """``why`` says why the node does not retire, as of the last step."""

    def __init__(self, ports: NodePorts, registry: Registry, etcd: EtcdContact) -> None:
        self._ports = ports
        self._registry = registry
        self._etcd = etcd
        self._others: tuple[Node, ...] = ()
        self._others_read_at = float("-inf")
        self._protected: str | None = None
        self._ask_again_at = float("-inf")
        self.why = ""

    def step(self, node: Node, policy: ClusterPolicy, pool: PoolPolicy, protected: str | None = None) -> str | None:
        """One pass; the reason to end the instance now, if it may. ``protected`` says why an idle node has to stay."""
        self._protected = protected
        self._keep_acquainted(policy, pool)
        own = idle_long_enough(node, pool, self._etcd.away, self._ports.clock.now())
        if not own.retire:
            self.why = own.reason
            self._ask_again_at = float("-inf")
            return None
        if not node.leaving and self._ports.clock.monotonic() < self._ask_again_at:
            return None
        # Asked before the gates are closed as well: a node that stays must not keep its agent from pulling.
        if not self._verdict(node, policy, pool).retire:
            pause_s = ASK_THE_OTHERS_AGAIN_S if needs_the_others(policy, pool) else ASK_AGAIN_S
            self._ask_again_at = self._ports.clock.monotonic() + pause_s
            return None
        if not self._ports.gates.close():
            self.why = next(
                (slot.problem for slot in self._ports.gates.slots() if slot.problem),
                "An agent is asking for a task at this moment.",
            )
            return None
        # Behind closed gates nothing can change any more: what is seen now is what is.
        node = replace(node, slots=self._ports.gates.slots())
        verdict = self._verdict(node, policy, pool)
        if verdict.retire and self._claim(node, policy, pool, verdict.reason):
            return verdict.reason
        if not node.leaving:
            self._ports.gates.open()
        return None

    def _verdict(self, node: Node, policy: ClusterPolicy, pool: PoolPolicy) -> RetirementVerdict:
        backlog: int | None = None
        nodes = self._others
        if not self._etcd.away:
            try:
                backlog = self._fresh_backlog(pool)
                if needs_the_others(policy, pool):
                    nodes = self._others = read_nodes(self._ports.store, self._ports.keys)
            except StoreError as error:
                self._etcd.lost(error)
        around = Surroundings(nodes, backlog, self._etcd.away, self._etcd.was_leader, self._protected)
        verdict = may_retire(node, policy, pool, around, self._ports.clock.now())
        self.why = verdict.reason
        return verdict

    def _fresh_backlog(self, pool: PoolPolicy) -> int | None:
        try:
            leader = read_leader(self._ports.store, self._ports.keys)
            view = read_view(self._ports.store, self._ports.keys)
        except RecordMalformed:
            return None  # a newer version's, say. etcd is there all the same: the node must not act as if it were away
        if leader is None or view is None or view.term != leader.term or not view.backlog_known:
            return None
        return view.backlog_of(pool)

    def _keep_acquainted(self, policy: ClusterPolicy, pool: PoolPolicy) -> None:
        now = self._ports.clock.monotonic()
        if self._etcd.away or not needs_the_others(policy, pool):
            return
        if now - self._others_read_at >= ACQUAINTANCE_INTERVAL_S:
            self._others_read_at = now
            try:
                self._others = read_nodes(self._ports.store, self._ports.keys)
            except StoreError as error:
                self._etcd.lost(error)

    def _claim(self, node: Node, policy: ClusterPolicy, pool: PoolPolicy, reason: str) -> bool:
        """Agree with the others that this node goes (protocol 4); without etcd the verdict alone has to do."""
        if self._etcd.away:
            return True
        leaving = replace(node, state=NodeState.RETIRING, reason=reason)
        try:
            return claim_retirement(
                self._ports.store,
                self._ports.keys,
                leaving,
                lambda nodes: node.leaving or may_leave(node, policy, pool, nodes),
                self._registry.lease,
                whole_cluster=policy.zero_mode.spans_pools,
            )
        except StoreError as error:
            self._etcd.lost(error)
            self._registry.doubt()  # the claim may have been written although this node goes on
            return False
