"""What the decisions need of the configuration, as plain values."""

from __future__ import annotations

from scaler_plugin.config.pool_schema import PoolConfig
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.model import PoolName, QueueName
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy


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
        )
        for pool in config.pools
    )
    return ClusterPolicy(
        cluster=config.cluster,
        pools=pools,
        max_instances=config.max_instances or sum(pool.max_instances for pool in pools),
        zero_mode=config.zero.mode,
        poll_interval_s=config.poll_interval.seconds,
    )
