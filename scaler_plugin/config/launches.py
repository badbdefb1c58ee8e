"""The EC2 calls that would serve a launch, in the order in which to try them."""

from __future__ import annotations

from scaler_plugin.config.pool_schema import PoolConfig, VolumeConfig
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.model import LaunchId, LaunchRequest, PoolName, Volume
from scaler_plugin.errors import ConfigError


def launch_candidates(
    config: ScalerConfig, pool_name: PoolName, launch_id: LaunchId, count: int, user_data: str
) -> tuple[LaunchRequest, ...]:
    """Every instance type in every subnet or zone: first the preferred type everywhere, then the next.

    A type without capacity in one zone often has some in another, and the types stand in the order the user prefers.
    Raises ``ConfigError`` when the pool is not in the configuration.
    """
    pool = config.pool(pool_name)
    if pool is None:
        raise ConfigError(f"The pool {pool_name} is not in the configuration of cluster {config.cluster}.")
    return tuple(
        LaunchRequest(
            cluster=config.cluster,
            pool=pool_name,
            launch_id=launch_id,
            count=count,
            instance_type=instance_type,
            launch_template=config.aws.launch_template(pool.name),
            image_id=pool.ami,
            market=pool.market,
            subnet_id=subnet,
            zone=zone,
            security_group_ids=pool.security_groups,
            key_name=pool.key_name,
            instance_profile=pool.instance_profile,
            volume=_volume(pool.volume),
            tags=tuple(sorted(pool.tags.items())),
            user_data=user_data,
        )
        for instance_type in pool.instance_types
        for subnet, zone in _places(pool)
    )


def _places(pool: PoolConfig) -> tuple[tuple[str | None, str | None], ...]:
    """Pairs of subnet and zone, at most one of them set."""
    if pool.subnets:
        return tuple((subnet, None) for subnet in pool.subnets)
    if pool.zones:
        return tuple((None, zone) for zone in pool.zones)
    return ((None, None),)


def _volume(volume: VolumeConfig | None) -> Volume | None:
    if volume is None:
        return None
    return Volume(
        device_name=volume.device_name,
        size_gb=volume.size_gb,
        volume_type=volume.type,
        iops=volume.iops,
        throughput=volume.throughput,
        encrypted=volume.encrypted,
    )
