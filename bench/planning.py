"""The time of one plan for a large cluster, and for halves of it: whether it grows with their number or faster."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator

from bench.table import Row
from scaler_plugin.core.model import (
    Backlog,
    Instance,
    InstanceId,
    InstanceState,
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
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.planning import plan_launches
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy

NOW = 1_700_000_000.0
NODES, TASKS = 10_000, 100_000
LIMIT_MS = 250.0
POOLS = tuple(PoolName(f"pool-{i}") for i in range(10))
QUEUES = tuple(QueueName(f"queue-{i}") for i in range(20))


def measure(repeats: int = 7) -> Iterator[Row]:
    halves = 1
    while halves <= 4:
        nodes, tasks = NODES // halves, TASKS // halves
        times = [_plan_ms(nodes, tasks) for _ in range(repeats)]
        limit = LIMIT_MS / halves
        told = f"median {statistics.median(times):.0f} ms, worst {max(times):.0f} ms of {repeats}"
        yield Row(f"plan for {nodes:,} nodes and {tasks:,} waiting tasks", f"< {limit:.0f} ms", told, limit, max(times))
        halves *= 2


def _plan_ms(nodes: int, tasks: int) -> float:
    policy, observation = _cluster(nodes, tasks)
    gc.collect()
    began = time.perf_counter()
    plan = plan_launches(policy, observation, NOW)
    took = time.perf_counter() - began
    if not plan.launches:
        raise AssertionError("the plan should launch something")
    return 1000.0 * took


def _cluster(nodes: int, tasks: int) -> tuple[ClusterPolicy, Observation]:
    """Ten pools that serve three of twenty queues each; a third of the nodes idle; every instance listed, some not yet a node."""
    pools = tuple(
        PoolPolicy(
            name, (QUEUES[2 * i], QUEUES[2 * i + 1], QUEUES[(2 * i + 5) % len(QUEUES)]), nodes, slots_per_node=1 + i % 2
        )
        for i, name in enumerate(POOLS)
    )
    seen = tuple(_node(i) for i in range(nodes))
    instances = tuple(
        Instance(InstanceId(f"i-{i:017x}"), InstanceState.RUNNING, NOW - 300.0, POOLS[i % len(POOLS)])
        for i in range(nodes + nodes // 20)
    )
    share = tasks // len(QUEUES)
    backlogs = {
        queue: Backlog(queue, tuple(TaskId(f"{number:08x}{i:024x}") for i in range(share)), NOW - 60.0)
        for number, queue in enumerate(QUEUES)
    }
    return ClusterPolicy("bench", pools, 20 * nodes), Observation(seen, (), backlogs, instances)


def _node(number: int) -> Node:
    identity = NodeIdentity("bench", InstanceId(f"i-{number:017x}"), NodeRole.WORKER, POOLS[number % len(POOLS)])
    state = (SlotState.IDLE, SlotState.BUSY, SlotState.BUSY)[number % 3]
    return Node(identity, NodeState.UP, NOW - 1000.0, (Slot(0, state, NOW - 5.0),))
