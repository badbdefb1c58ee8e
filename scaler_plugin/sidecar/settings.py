"""The configuration as the services use it: followed in etcd, turned into policy once per revision."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import structlog

from scaler_plugin.config.launches import launch_candidates
from scaler_plugin.config.policy import cluster_policy
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.published_config import ConfigFollower, PublishedConfig
from scaler_plugin.core.model import LaunchId, LaunchRequest, PoolName
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.errors import ConfigError
from scaler_plugin.leader.settings import LeaderSettings

log = structlog.get_logger(__name__)

#: Writes the user-data of an instance of this pool and launch.
UserDataSource: TypeAlias = Callable[[ScalerConfig, PoolName, LaunchId], str]


class _InForce(NamedTuple):
    published: PublishedConfig
    policy: ClusterPolicy


class FollowedSettings:
    """The newest good configuration and its policy; :meth:`refresh` re-reads it, level-triggered."""

    def __init__(self, follower: ConfigFollower, user_data: UserDataSource) -> None:
        self._follower = follower
        self._user_data = user_data
        # One value, replaced as a whole: the leader's thread reads while the sidecar's refreshes.
        self._in_force: _InForce | None = None
        self._problem: str | None = None

    def refresh(self) -> None:
        """Read etcd once. Raises ``StoreError``; a missing or malformed configuration is only reported."""
        try:
            self._follower.current()
            problem = self._follower.problem
        except ConfigError as error:
            problem = str(error)
        if problem != self._problem:
            self._problem = problem
            if problem:
                log.warning("configuration_not_usable", problem=problem)
        good = self._follower.last_good
        if good is not None and (self._in_force is None or good is not self._in_force.published):
            self._in_force = _InForce(good, cluster_policy(good.config))
            log.info("configuration_in_force", revision=good.revision)

    @property
    def policy(self) -> ClusterPolicy | None:
        """The policy in force; ``None`` while no good configuration has been seen."""
        return self._in_force.policy if self._in_force else None

    @property
    def revision(self) -> int:
        """The revision in force; 0 while there is none."""
        return self._in_force.published.revision if self._in_force else 0

    def for_leader(self) -> LeaderSettings:
        """What the leader's pass needs; only called once there is a configuration."""
        in_force = self._in_force
        if in_force is None:
            raise RuntimeError("a leader needs a configuration")
        config = in_force.published.config

        def candidates(pool: PoolName, launch_id: LaunchId, count: int) -> tuple[LaunchRequest, ...]:
            return launch_candidates(config, pool, launch_id, count, self._user_data(config, pool, launch_id))

        return LeaderSettings(in_force.published.revision, in_force.policy, candidates, self._problem)
