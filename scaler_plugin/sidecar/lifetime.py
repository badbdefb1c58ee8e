"""A pool's ``max_lifetime``: a node that has come of age drains and is replaced, a few of a pool at a time.

Guarantees: nothing is decided without etcd; a running task is never disturbed; an idle node waits for its replacement where the
pool's minimum needs one, but not for ever (a pool that is at its maximum gets none before the old node has gone).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.registry import Registry, read_nodes
from scaler_plugin.coordination.renewal_places import take_place
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.leaving import Demand
from scaler_plugin.core.lifetime import is_replaced, of_age, places
from scaler_plugin.core.model import Node, NodeState
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import StoreError

log = structlog.get_logger(__name__)

#: How often a node of age asks for a place, and one that drains whether it has been replaced.
ASK_EVERY_S = 10.0


class Lifetime:
    """A :class:`~scaler_plugin.sidecar.concerns.Concern`. ``born_at`` is when the machine was set up, epoch seconds."""

    def __init__(
        self,
        born_at: float,
        store: Store,
        keys: Keys,
        registry: Registry,
        clock: Clock,
        policy: Callable[[], ClusterPolicy | None],
    ) -> None:
        self._born_at = born_at
        self._store = store
        self._keys = keys
        self._registry = registry
        self._clock = clock
        self._policy = policy
        self._draining_since: float | None = None  # monotonic
        self._replaced = False
        self._ask_at = float("-inf")

    def demand(self, node: Node) -> Demand | None:
        policy = self._policy()
        pool = policy.pool(node.pool) if policy is not None else None
        if pool is None or pool.max_lifetime_s is None or not of_age(self._born_at, pool, self._clock.now()):
            self._draining_since = None
            return None
        if self._due():
            try:
                self._ask(node, pool)
            except StoreError as error:
                log.debug("lifetime_unasked", error=str(error))
        if self._draining_since is None:
            return None
        reason = f"It has reached the max_lifetime of pool {pool.name}, {pool.max_lifetime_s:.0f} s."
        waited_s = self._clock.monotonic() - self._draining_since
        return Demand(NodeState.DRAINING, reason, ready=self._replaced or waited_s >= pool.startup_timeout_s)

    def _due(self) -> bool:
        now = self._clock.monotonic()
        if now < self._ask_at:
            return False
        self._ask_at = now + ASK_EVERY_S
        return True

    def _ask(self, node: Node, pool: PoolPolicy) -> None:
        if self._draining_since is None:
            lease = self._registry.lease
            if lease is None or not take_place(
                self._store, self._keys, pool.name, node.instance_id, places(pool), lease
            ):
                return
            self._draining_since = self._clock.monotonic()
        if pool.min_instances == 0:
            self._replaced = True
        elif not node.busy:  # only a node that could go now costs etcd a reading of all nodes
            self._replaced = is_replaced(node, pool, read_nodes(self._store, self._keys))
