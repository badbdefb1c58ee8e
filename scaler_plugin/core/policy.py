"""What the decisions need to know of the configuration, in plain values; made from ``scaler.yaml`` by ``config.policy``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from scaler_plugin.core.health import HealthPolicy
from scaler_plugin.core.model import PoolName, QueueName


class ZeroMode(str, Enum):
    """What happens when there is nothing to do: see "Zero" in ``docs/architecture.md``."""

    PROBE = "probe"  # no instance runs; a schedule launches a short-lived probe every few minutes
    STANDBY = "standby"  # a sidecar without an agent runs on a machine that is up anyway
    KEEP_ONE = "keep_one"  # the last node stays

    @property
    def spans_pools(self) -> bool:
        """Whether a node's retirement depends on nodes of other pools."""
        return self is ZeroMode.KEEP_ONE


@dataclass(frozen=True)
class PoolPolicy:
    """One pool's rules. ``queues`` in priority order; ``idle_timeout_s`` is ``None`` for "never".

    ``max_lifetime_s`` is the age from which a node leaves and is replaced. ``on_interruption`` is the script that lets a task save
    its state before EC2 takes the instance.
    """

    name: PoolName
    queues: tuple[QueueName, ...]
    max_instances: int
    min_instances: int = 0
    slots_per_node: int = 1
    idle_timeout_s: float | None = 600.0
    startup_timeout_s: float = 600.0
    max_lifetime_s: float | None = None
    sessions_keep_alive: bool = False
    on_interruption: str | None = None
    on_interruption_timeout_s: float = 60.0
    health: HealthPolicy = field(default_factory=HealthPolicy)


@dataclass(frozen=True)
class ClusterPolicy:
    """The cluster's rules; pools stand in the order in which they are preferred.

    ``rescue_grace_s``: how long a task must have been as it is before it can be called stranded. ``max_requeues``: how often
    it is put back before it is marked as failed. ``lost_after_s``: a node with a task that neither etcd nor ClearML has heard
    of for so long is terminated. ``probe_every_s``: how often a schedule launches a probe; ``None`` where none does.
    """

    cluster: str
    pools: tuple[PoolPolicy, ...]
    max_instances: int
    zero_mode: ZeroMode = ZeroMode.STANDBY
    poll_interval_s: float = 2.0
    rescue_grace_s: float = 60.0
    max_requeues: int = 3
    lost_after_s: float = 1800.0
    probe_every_s: float | None = None

    def pool(self, name: PoolName | None) -> PoolPolicy | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    @property
    def queues(self) -> tuple[QueueName, ...]:
        """Every queue that some pool serves, once, in order of first mention."""
        return tuple(dict.fromkeys(queue for pool in self.pools for queue in pool.queues))
