"""A configuration that changes a pool's queues reaches the agents that run, or their nodes leave."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scaler_plugin.core.model import InstanceId, Node, NodeIdentity, NodeRole, NodeState, PoolName, QueueName
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy
from scaler_plugin.errors import HostError
from scaler_plugin.sidecar.pool_queues import PoolQueues

A, B = QueueName("a"), QueueName("b")
NODE = Node(NodeIdentity("c", InstanceId("i-1"), NodeRole.WORKER, PoolName("cpu")), NodeState.UP, 1.0)


def policy(*queues: QueueName, pool: str = "cpu") -> ClusterPolicy:
    return ClusterPolicy("c", (PoolPolicy(PoolName(pool), queues, 4),), 4)


@dataclass
class World:
    policy: ClusterPolicy | None = field(default_factory=lambda: policy(A))
    told: list[tuple[QueueName, ...]] = field(default_factory=list)
    refuses: bool = False

    def announce(self, queues: tuple[QueueName, ...]) -> None:
        if self.refuses:
            raise HostError("The disk is full.")
        self.told.append(queues)

    def concern(self, *, plugin: bool = True) -> PoolQueues:
        return PoolQueues((A,), self.announce if plugin else None, lambda: self.policy)


def test_agents_are_told_of_each_change_once_and_the_node_stays() -> None:
    world = World()
    concern = world.concern()
    for queues in ((A,), (B, A), (B, A), (A,)):
        world.policy = policy(*queues)
        assert concern.demand(NODE) is None
    assert world.told == [(B, A), (A,)]


def test_a_node_whose_agents_run_without_the_plugin_leaves_and_stays_when_the_change_is_taken_back() -> None:
    world = World()
    concern = world.concern(plugin=False)
    world.policy = policy(B)
    demand = concern.demand(NODE)
    assert demand is not None
    assert demand.state is NodeState.DRAINING
    assert demand.reason.endswith("those of before: a.")
    world.policy = policy(A)
    assert concern.demand(NODE) is None


def test_a_node_that_cannot_tell_its_agents_leaves_and_stays_when_it_can() -> None:
    world = World(policy(B), refuses=True)
    concern = world.concern()
    assert concern.demand(NODE) is not None
    world.refuses = False
    assert concern.demand(NODE) is None
    assert world.told == [(B,)]


def test_nothing_is_told_of_a_pool_that_is_not_configured_or_before_anything_is_known() -> None:
    world = World(None)
    concern = world.concern()
    assert concern.demand(NODE) is None
    world.policy = policy(B, pool="other")
    assert concern.demand(NODE) is None
    assert concern.demand(replace(NODE, identity=replace(NODE.identity, pool=None))) is None
    assert world.told == []
