"""What people have asked of this node (``scaler-sidecar drain`` and ``protect``), read from etcd level-triggered.

Costs one small read every few seconds. While etcd is away what was last read holds: a node that was protected stays protected.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.requests import read_requests_of
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.leaving import Demand
from scaler_plugin.core.model import InstanceId, Node, NodeState
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock
from scaler_plugin.core.requests import NodeRequests
from scaler_plugin.errors import StoreError

log = structlog.get_logger(__name__)

#: Each node of a large cluster reads this often; nobody who asks for a drain minds some seconds.
READ_EVERY_S = 5.0


class RequestedOfNode:
    """A concern and a protection in one."""

    def __init__(
        self,
        instance_id: InstanceId,
        store: Store,
        keys: Keys,
        clock: Clock,
        policy: Callable[[], ClusterPolicy | None],
    ) -> None:
        self._instance_id = instance_id
        self._store = store
        self._keys = keys
        self._clock = clock
        self._policy = policy
        self._requests = NodeRequests()
        self._next_read_at = float("-inf")

    def demand(self, node: Node) -> Demand | None:
        self._refresh()
        drain = self._requests.drain
        return Demand(NodeState.DRAINING, drain.sentence) if drain is not None else None

    def why_protected(self, node: Node) -> str | None:
        self._refresh()
        protect = self._requests.protect
        if protect is None or not protect.holds(self._clock.now()):
            return None
        return protect.sentence

    def _refresh(self) -> None:
        now = self._clock.monotonic()
        if now < self._next_read_at:
            return
        policy = self._policy()
        self._next_read_at = now + max(READ_EVERY_S, policy.poll_interval_s if policy is not None else 0.0)
        try:
            self._requests = read_requests_of(self._store, self._keys, self._instance_id)
        except StoreError as error:
            log.debug("requests_unread", error=str(error))  # the sidecar itself says once that etcd is away
