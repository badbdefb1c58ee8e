"""The configuration as the services use it: followed in etcd, turned into policy once per revision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from scaler_plugin.config.launches import launch_candidates
from scaler_plugin.config.policy import cluster_policy
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.published_config import ConfigFollower
from scaler_plugin.core.model import LaunchId, LaunchRequest, PoolName
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.leader.settings import LeaderSettings

#: Writes the user-data of an instance of this pool and launch.
UserDataSource: TypeAlias = Callable[[ScalerConfig, PoolName, LaunchId], str]


class FollowedSettings:
    """The newest good configuration's policy; :meth:`refresh` re-reads it, level-triggered."""

    def __init__(self, follower: ConfigFollower, user_data: UserDataSource) -> None:
        self._follower = follower
        self._user_data = user_data
        self._config: ScalerConfig | None = None
        self._policy: ClusterPolicy | None = None

    def refresh(self) -> ClusterPolicy | None:
        """Read etcd once; ``None`` while no configuration was ever pushed. Raises ``StoreError``."""
        config = self._follower.current()
        if config is not self._config and config is not None:
            self._config, self._policy = config, cluster_policy(config)
        return self._policy

    @property
    def config(self) -> ScalerConfig | None:
        """The configuration of the last :meth:`refresh` that succeeded."""
        return self._config

    @property
    def policy(self) -> ClusterPolicy | None:
        """The policy of the last :meth:`refresh` that succeeded."""
        return self._policy

    def for_leader(self) -> LeaderSettings:
        """What the leader's pass needs; only called once there is a configuration."""
        config, policy = self._config, self._policy
        if config is None or policy is None:
            raise RuntimeError("a leader needs a configuration")

        def candidates(pool: PoolName, launch_id: LaunchId, count: int) -> tuple[LaunchRequest, ...]:
            return launch_candidates(config, pool, launch_id, count, self._user_data(config, pool, launch_id))

        return LeaderSettings(self._follower.revision, policy, candidates, self._follower.problem)
