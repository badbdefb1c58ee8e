"""The leader's published snapshot (etcd key ``view``): what ``status`` and the nodes read instead of asking AWS or ClearML.

It is written only when it changes, so it carries no age but that of its term (``since``): a view is fresh exactly while the leader
named in it still leads (its key is under a lease) and ``backlog_known`` is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scaler_plugin.core.model import PoolName, Problem, QueueName
from scaler_plugin.core.observation import Cooldown, Observation
from scaler_plugin.core.planning import LaunchPlan
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy


@dataclass(frozen=True)
class QueueView:
    """``waiting`` tasks in a queue; ``unserved`` says why nothing is launched for those that nobody will take soon."""

    name: QueueName
    waiting: int
    oldest_since: float | None = None
    unserved: str = ""


@dataclass(frozen=True)
class PoolView:
    """A pool as the leader counts it. ``instances`` counts against ``max_instances``."""

    name: PoolName
    queues: tuple[QueueName, ...]
    instances: int
    booting: int
    supply_slots: int
    min_instances: int
    max_instances: int
    paused_until: float | None = None


@dataclass(frozen=True)
class View:
    term: int
    leader: str
    config_revision: int
    max_instances: int
    backlog_known: bool
    queues: tuple[QueueView, ...]
    pools: tuple[PoolView, ...]
    problems: tuple[Problem, ...] = ()
    since: float = 0.0  # when the term began
    probe_every_s: float | None = None  # as in the policy: who looks at a cluster at zero has nothing else to go by

    def backlog_of(self, pool: PoolPolicy) -> int:
        """How many tasks wait in the pool's queues."""
        return sum(queue.waiting for queue in self.queues if queue.name in pool.queues)


def make_view(
    term: int,
    leader: str,
    config_revision: int,
    policy: ClusterPolicy,
    observation: Observation,
    plan: LaunchPlan,
    problems: tuple[Problem, ...],
    since: float = 0.0,
) -> View:
    """The view of one pass; equal for two passes in which nothing changed."""
    unserved = {entry.queue: entry.reason for entry in plan.unserved}
    cooldowns = {cooldown.pool: cooldown for cooldown in observation.cooldowns}
    return View(
        term=term,
        leader=leader,
        config_revision=config_revision,
        max_instances=policy.max_instances,
        backlog_known=observation.backlogs is not None,
        queues=tuple(_queue_view(name, observation, unserved) for name in policy.queues),
        pools=tuple(_pool_view(pool, plan, cooldowns) for pool in policy.pools),
        problems=problems,
        since=since,
        probe_every_s=policy.probe_every_s,
    )


def _queue_view(name: QueueName, observation: Observation, unserved: Mapping[QueueName, str]) -> QueueView:
    backlog = (observation.backlogs or {}).get(name)
    oldest = backlog.oldest_since if backlog else None
    return QueueView(name, observation.waiting(name), oldest, unserved.get(name, ""))


def _pool_view(pool: PoolPolicy, plan: LaunchPlan, cooldowns: Mapping[PoolName, Cooldown]) -> PoolView:
    count = plan.census[pool.name]
    cooldown = cooldowns.get(pool.name)
    return PoolView(
        name=pool.name,
        queues=pool.queues,
        instances=count.instances,
        booting=count.booting_instances,
        supply_slots=count.supply_slots,
        min_instances=pool.min_instances,
        max_instances=pool.max_instances,
        paused_until=cooldown.until if cooldown else None,
    )
