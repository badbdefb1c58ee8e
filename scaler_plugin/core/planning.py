"""How many instances to launch for which pool, and why; and for waiting tasks without a launch, why not.

Guarantees: demand is consumed once (a task that waits in a queue of two pools causes one launch, not two); supply includes what
is still booting; no maximum is exceeded; when a source could not be read, nothing is launched. Time and memory are linear
in nodes, instances and queues; waiting tasks are only counted.

It does not choose instance types or zones: those are the candidates of a launch record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from scaler_plugin.core.breaker import StartRecord
from scaler_plugin.core.census import PoolCount, take_census
from scaler_plugin.core.housekeeping import LISTING_LAG_S
from scaler_plugin.core.model import PoolName, QueueName
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy

#: One RunInstances call is all or part; a record of this size still fits well into etcd's 1.5 MiB, and what is left over
#: follows in the next pass, seconds later.
MAX_INSTANCES_PER_LAUNCH = 100


@dataclass(frozen=True)
class LaunchDecision:
    pool: PoolName
    count: int
    reason: str


@dataclass(frozen=True)
class Unserved:
    """Tasks that wait in ``queue`` and for which nothing is launched, with the reason as a sentence."""

    queue: QueueName
    waiting: int
    reason: str


@dataclass(frozen=True)
class LaunchPlan:
    launches: tuple[LaunchDecision, ...]
    unserved: tuple[Unserved, ...]
    census: Mapping[PoolName, PoolCount]


def plan_launches(policy: ClusterPolicy, observation: Observation, now: float) -> LaunchPlan:
    """Decide the launches of this pass.

    Args:
        policy: the cluster's rules, pools in order of preference.
        observation: what was read in this pass.
        now: seconds since the epoch.
    """
    census = take_census(observation, policy, now)
    if observation.backlogs is None:
        return LaunchPlan((), (), census)
    doubt = _why_in_doubt(observation, now)
    if doubt is not None:
        waiting = {queue: observation.waiting(queue) for queue in policy.queues}
        return LaunchPlan((), tuple(Unserved(queue, n, doubt) for queue, n in waiting.items() if n), census)
    return _Planner(policy, observation, census, now).plan()


def _why_in_doubt(observation: Observation, now: float) -> str | None:
    """Why it is not known what already runs, as a sentence: nothing is launched then."""
    if observation.instances is None:
        return "EC2 could not be read, so what already runs is not known; nothing is launched in doubt."
    for launch_id, since in observation.unread_launches.items():
        if now - since < LISTING_LAG_S:
            return (
                f"The launch record {launch_id} can't be read. Nothing is launched for {LISTING_LAG_S:.0f} s, until EC2 is sure to "
                "list the instances that it may stand for."
            )
    return None


class _Planner:
    """The working state of one plan: demand left per queue, room left in the cluster."""

    def __init__(
        self, policy: ClusterPolicy, observation: Observation, census: Mapping[PoolName, PoolCount], now: float
    ) -> None:
        self._policy = policy
        self._census = census
        self._now = now
        self._cooldowns = {cooldown.pool: cooldown for cooldown in observation.cooldowns}
        self._starts = {record.pool: record for record in observation.starts}
        self._demand = {queue: observation.waiting(queue) for queue in policy.queues}
        self._cluster_room = policy.max_instances - sum(count.instances for count in census.values())
        self._refusals: dict[QueueName, list[str]] = {}
        self._postponed: dict[QueueName, int] = {}

    def plan(self) -> LaunchPlan:
        consume_supply(
            self._demand,
            {pool.name: self._census[pool.name].supply_slots for pool in self._policy.pools},
            {pool.name: pool.queues for pool in self._policy.pools},
        )
        launches = tuple(decision for pool in self._policy.pools if (decision := self._plan_pool(pool)))
        unserved = tuple(
            Unserved(queue, left, " ".join(dict.fromkeys(self._refusals.get(queue, ()))))
            for queue, waiting in self._demand.items()
            if (left := waiting + self._postponed.get(queue, 0)) > 0
        )
        return LaunchPlan(launches, unserved, self._census)

    def _plan_pool(self, pool: PoolPolicy) -> LaunchDecision | None:
        count = self._census[pool.name]
        demand = sum(self._demand[queue] for queue in pool.queues)
        for_demand = -(-demand // pool.slots_per_node)
        for_minimum = max(0, pool.min_instances - count.serving_instances)
        wanted = max(for_demand, for_minimum)
        if wanted == 0:
            return None
        cooldown = self._cooldowns.get(pool.name)
        if cooldown is not None and cooldown.until > self._now:
            self._refuse(pool, f"Pool {pool.name} pauses after a failed launch: {cooldown.what}")
            return None
        starts = self._starts.get(pool.name)
        if starts is not None and starts.paused(self._now):
            self._refuse(pool, f"Pool {pool.name} pauses: {starts.in_a_row} instances in a row did not start.")
            return None
        if starts is not None and starts.on_trial(self._now) and wanted > (room := _room_for_a_trial(starts, count)):
            self._refuse(
                pool, f"Pool {pool.name} tries a single instance, as its last {starts.in_a_row} did not start."
            )
            wanted = room
            if wanted == 0:
                return None
        pool_room = pool.max_instances - count.instances
        granted = min(wanted, pool_room, self._cluster_room)
        if granted < wanted:
            self._refuse(pool, self._why_not_more(pool, pool_room))
        if granted <= 0:
            return None
        self._cluster_room -= granted
        number = min(granted, MAX_INSTANCES_PER_LAUNCH)
        served = self._serve(pool, number * pool.slots_per_node)
        if number < granted:
            # What one launch does not hold is this pool's all the same: it must not fall to a less preferred one.
            for queue, tasks in self._serve(pool, (granted - number) * pool.slots_per_node).items():
                self._postponed[queue] = self._postponed.get(queue, 0) + tasks
            self._refuse(pool, f"Pool {pool.name} launches {number} instances at a time; the rest follows.")
        return LaunchDecision(pool.name, number, _reason(served, number, for_minimum))

    def _serve(self, pool: PoolPolicy, slots: int) -> dict[QueueName, int]:
        served = {}
        for queue in pool.queues:
            taken = min(slots, self._demand[queue])
            if taken:
                served[queue] = taken
                self._demand[queue] -= taken
                slots -= taken
        return served

    def _refuse(self, pool: PoolPolicy, why: str) -> None:
        for queue in pool.queues:
            self._refusals.setdefault(queue, []).append(why)

    def _why_not_more(self, pool: PoolPolicy, pool_room: int) -> str:
        if pool_room <= self._cluster_room:
            return f"Pool {pool.name} is at its max_instances of {pool.max_instances}."
        return f"The cluster is at its max_instances of {self._policy.max_instances}."


def _room_for_a_trial(starts: StartRecord, count: PoolCount) -> int:
    """One at a time; where nodes were useless after they had registered, the one before must have worked first."""
    unproven = count.unproven_instances if starts.useless_since is not None else 0
    return max(0, 1 - count.booting_instances - unproven)


def _reason(served: Mapping[QueueName, int], number: int, for_minimum: int) -> str:
    parts = [f"{tasks} waiting in {queue}" for queue, tasks in served.items()]
    if for_minimum:
        parts.append(f"{min(for_minimum, number)} below min_instances")
    return ", ".join(parts)


def consume_supply(
    demand: dict[QueueName, int], supply: Mapping[PoolName, int], serves: Mapping[PoolName, tuple[QueueName, ...]]
) -> None:
    """Take from ``demand`` (in place) as many tasks as the supply of all pools together can serve.

    This is a maximum flow from pools to the queues that they serve (augmenting paths, Edmonds and Karp 1972), so a pool that
    serves two queues does not use itself up on the one that another pool could have served. The graph has one vertex per
    pool and queue; tasks and slots are only capacities.
    """
    spare = dict(supply)
    flow: dict[tuple[PoolName, QueueName], int] = {}
    served_by: dict[QueueName, list[PoolName]] = {}
    for pool, queues in serves.items():
        for queue in queues:
            served_by.setdefault(queue, []).append(pool)
    for start in serves:
        while spare[start] > 0 and (path := _augmenting_path(start, demand, serves, served_by, flow)):
            _push_along(path, start, spare, demand, flow)


def _augmenting_path(
    start: PoolName,
    demand: Mapping[QueueName, int],
    serves: Mapping[PoolName, tuple[QueueName, ...]],
    served_by: Mapping[QueueName, list[PoolName]],
    flow: Mapping[tuple[PoolName, QueueName], int],
) -> list[tuple[PoolName, QueueName]] | None:
    """The shortest chain pool → queue ← pool → queue … that ends at a queue with demand left, as (pool, queue) hops."""
    came_from: dict[PoolName, tuple[PoolName, QueueName] | None] = {start: None}
    waiting_pools = deque([start])
    while waiting_pools:
        pool = waiting_pools.popleft()
        for queue in serves[pool]:
            if demand.get(queue, 0) > 0:
                path = [(pool, queue)]
                while (hop := came_from[path[0][0]]) is not None:
                    path.insert(0, hop)
                return path
            for other in served_by[queue]:
                if other not in came_from and flow.get((other, queue), 0) > 0:
                    came_from[other] = (pool, queue)
                    waiting_pools.append(other)
    return None


def _push_along(
    path: list[tuple[PoolName, QueueName]],
    start: PoolName,
    spare: dict[PoolName, int],
    demand: dict[QueueName, int],
    flow: dict[tuple[PoolName, QueueName], int],
) -> None:
    """Send as much as the chain carries: each pool but the first hands the queue before it over and takes the next one."""
    amount = min(spare[start], demand[path[-1][1]])
    for (_, queue), (displaced, _) in pairwise(path):
        amount = min(amount, flow[displaced, queue])
    for hop in path:
        flow[hop] = flow.get(hop, 0) + amount
    for (_, queue), (displaced, _) in pairwise(path):
        flow[displaced, queue] -= amount
    spare[start] -= amount
    demand[path[-1][1]] -= amount
