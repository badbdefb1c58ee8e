"""A cluster at one moment, in few words."""

from __future__ import annotations

from typing import Any

import pytest

from scaler_plugin.core.model import (
    Attempt,
    Backlog,
    Instance,
    InstanceId,
    InstanceState,
    Launch,
    LaunchId,
    LaunchRequest,
    Node,
    NodeIdentity,
    NodeRole,
    NodeState,
    PoolName,
    QueueName,
    Slot,
    SlotState,
    TaskId,
)
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy

NOW = 1_000_000.0


class Make:
    """Makes the model's values; whatever a test does not care about has a default."""

    now = NOW

    def pool(
        self, name: str = "cpu", queues: tuple[str, ...] | str = "q", maximum: int = 10, **rules: Any
    ) -> PoolPolicy:
        names = (queues,) if isinstance(queues, str) else queues
        return PoolPolicy(PoolName(name), tuple(QueueName(queue) for queue in names), maximum, **rules)

    def policy(self, *pools: PoolPolicy, maximum: int = 1000, **rules: Any) -> ClusterPolicy:
        return ClusterPolicy("c", pools or (self.pool(),), maximum, **rules)

    def node(
        self,
        name: str = "i-1",
        pool: str = "cpu",
        *slots: SlotState,
        state: NodeState = NodeState.UP,
        since: float = NOW - 5,
        launch: str | None = None,
        registered_at: float = NOW - 1000,
        reason: str = "",
        role: NodeRole = NodeRole.WORKER,
    ) -> Node:
        states = slots or ((SlotState.IDLE,) if role is NodeRole.WORKER else ())
        identity = NodeIdentity(
            "c",
            InstanceId(name),
            role,
            PoolName(pool) if role is NodeRole.WORKER else None,
            launch_id=LaunchId(launch) if launch else None,
        )
        return Node(
            identity, state, registered_at, tuple(Slot(i, s, since) for i, s in enumerate(states)), reason=reason
        )

    def instance(
        self,
        name: str = "i-1",
        pool: str = "cpu",
        state: InstanceState = InstanceState.RUNNING,
        launched_at: float = NOW - 1000,
        launch: str | None = None,
    ) -> Instance:
        return Instance(
            InstanceId(name), state, launched_at, PoolName(pool), launch_id=LaunchId(launch) if launch else None
        )

    def request(
        self, launch: str = "l-1", pool: str = "cpu", count: int = 1, instance_type: str = "a"
    ) -> LaunchRequest:
        return LaunchRequest("c", PoolName(pool), LaunchId(launch), count, instance_type, "ami-1")

    def launch(
        self,
        name: str = "l-1",
        pool: str = "cpu",
        count: int = 1,
        *,
        started: tuple[str, ...] | None = None,
        awaited: tuple[str, ...] | None = None,
        slots_per_node: int = 1,
        at: float = NOW - 10,
        candidates: int = 1,
    ) -> Launch:
        """``started`` are the ids that EC2 answered with; ``None`` while there is no answer."""
        requests = tuple(self.request(name, pool, count, f"type-{i}") for i in range(candidates))
        ids = tuple(InstanceId(i) for i in started or ())
        attempt = Attempt(0, f"{name}-0", requests[0], at, ids)
        waiting = ids if awaited is None else tuple(InstanceId(i) for i in awaited)
        return Launch(
            LaunchId(name), PoolName(pool), count, slots_per_node, 1, at, "because", requests, (attempt,), waiting
        )

    def backlogs(self, **waiting: int) -> dict[QueueName, Backlog]:
        return {
            QueueName(queue): Backlog(QueueName(queue), tuple(TaskId(f"{queue}-{i}") for i in range(number)))
            for queue, number in waiting.items()
        }


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()
