"""A pool's queues in a new configuration: the node's agents are told, and where they can't be the node leaves and is replaced.

Without this an idle node would keep its old queues, count as supply for the new ones, and stay for as long as tasks wait in those.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from scaler_plugin.core.leaving import Demand
from scaler_plugin.core.model import Node, NodeState, QueueName
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.errors import HostError

log = structlog.get_logger(__name__)


class PoolQueues:
    """A :class:`~scaler_plugin.sidecar.concerns.Concern`. ``served`` is what the agents serve or were told to serve.

    ``announce`` tells them, and raises ``HostError``; ``None`` for agents that can't be told.
    """

    def __init__(
        self,
        served: tuple[QueueName, ...],
        announce: Callable[[tuple[QueueName, ...]], None] | None,
        policy: Callable[[], ClusterPolicy | None],
    ) -> None:
        self._served = served
        self._announce = announce
        self._policy = policy
        self._failure = ""

    def demand(self, node: Node) -> Demand | None:
        policy = self._policy()
        pool = policy.pool(node.pool) if policy is not None else None
        if pool is None or pool.queues == self._served or self._told(pool.queues):
            return None
        before = ", ".join(self._served)
        return Demand(
            NodeState.DRAINING, f"Its pool has other queues by now, and its agents serve those of before: {before}."
        )

    def _told(self, queues: tuple[QueueName, ...]) -> bool:
        if self._announce is None:
            return False
        try:
            self._announce(queues)
        except HostError as error:
            if str(error) != self._failure:
                log.warning("queues_not_announced", error=str(error))
            self._failure = str(error)
            return False
        log.info("queues_announced", queues=queues)
        self._served = queues
        return True
