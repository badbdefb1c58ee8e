"""What the decisions need of the configuration, as plain values."""

from __future__ import annotations

from scaler_plugin.config.pool_schema import PoolConfig
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.health import HealthCheck, HealthPolicy
from scaler_plugin.core.model import PoolName, QueueName
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy, ZeroMode


def cluster_policy(config: ScalerConfig) -> ClusterPolicy:
    """The cluster's rules. Without a maximum of its own the cluster may have as many instances as its pools together."""
    pools = tuple(
        PoolPolicy(
            name=PoolName(pool.name),
            queues=tuple(QueueName(queue) for queue in pool.queues),
            max_instances=pool.max_instances,
            min_instances=pool.min_instances,
            slots_per_node=pool.slots_per_node,
            idle_timeout_s=pool.idle_timeout.seconds if pool.idle_timeout else None,
            startup_timeout_s=pool.startup_timeout.seconds,
            max_lifetime_s=pool.max_lifetime.seconds if pool.max_lifetime else None,
            sessions_keep_alive=pool.sessions_keep_alive,
            on_interruption=pool.on_interruption,
            on_interruption_timeout_s=pool.on_interruption_timeout.seconds,
            health=_health(pool),
        )
        for pool in config.pools
    )
    return ClusterPolicy(
        cluster=config.cluster,
        pools=pools,
        max_instances=config.max_instances or sum(pool.max_instances for pool in pools),
        zero_mode=config.zero_mode,
        poll_interval_s=config.poll_interval.seconds,
        probe_every_s=config.zero.probe_every.seconds if config.zero_mode is ZeroMode.PROBE else None,
    )


def _health(pool: PoolConfig) -> HealthPolicy:
    checks = tuple(
        HealthCheck(check.name or f"no. {number}", check.shell_text, check.every.seconds, check.timeout.seconds)
        for number, check in enumerate(pool.checks, start=1)
    )
    return HealthPolicy(pool.min_free_disk_gb * 1024**3, checks)
