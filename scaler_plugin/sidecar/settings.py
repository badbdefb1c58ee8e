"""The configuration as the services use it: followed in etcd as policy, read whole only by a node that leads or ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import structlog

from scaler_plugin.coordination.config_digest import ConfigDigest
from scaler_plugin.coordination.config_follower import ConfigFollower, Followed
from scaler_plugin.core.model import LaunchId, LaunchRequest, PoolName
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.errors import ConfigError
from scaler_plugin.leader.settings import LeaderSettings

if TYPE_CHECKING:
    from scaler_plugin.config.schema import ScalerConfig

log = structlog.get_logger(__name__)

#: Writes the user-data of an instance of this pool and launch.
UserDataSource: TypeAlias = "Callable[[ScalerConfig, PoolName, LaunchId], str]"


class _Whole(NamedTuple):
    followed: Followed[ConfigDigest]
    config: ScalerConfig


class FollowedSettings:
    """The newest good configuration and its policy; :meth:`refresh` re-reads it, level-triggered.

    One thread refreshes, others may read: what is in force is one value, replaced as a whole.
    """

    def __init__(self, follower: ConfigFollower[ConfigDigest], user_data: UserDataSource) -> None:
        self._follower = follower
        self._user_data = user_data
        self._in_force: Followed[ConfigDigest] | None = None
        self._whole: _Whole | None = None
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
        if good is not None and good is not self._in_force:
            self._in_force = good
            log.info("configuration_in_force", revision=good.revision)

    @property
    def policy(self) -> ClusterPolicy | None:
        """The policy in force; ``None`` while no good configuration has been seen."""
        return self._in_force.config.policy if self._in_force else None

    @property
    def revision(self) -> int:
        """The revision in force; 0 while there is none."""
        return self._in_force.revision if self._in_force else 0

    def config(self) -> ScalerConfig | None:
        """The whole configuration in force. Loads its schema (12 MB): for a node that leads or ends."""
        whole = self._read_whole()
        return whole.config if whole else None

    def for_leader(self) -> LeaderSettings:
        """What the leader's pass needs; only called once there is a configuration."""
        whole = self._read_whole()
        if whole is None:
            raise RuntimeError("a leader needs a configuration")
        from scaler_plugin.config.launches import launch_candidates  # noqa: PLC0415  (the schema)

        def candidates(pool: PoolName, launch_id: LaunchId, count: int) -> tuple[LaunchRequest, ...]:
            user_data = self._user_data(whole.config, pool, launch_id)
            return launch_candidates(whole.config, pool, launch_id, count, user_data)

        return LeaderSettings(whole.followed.revision, whole.followed.config.policy, candidates, self._problem)

    def _read_whole(self) -> _Whole | None:
        in_force, whole = self._in_force, self._whole
        if in_force is None or (whole is not None and whole.followed is in_force):
            return whole
        from scaler_plugin.coordination.published_config import parse_published  # noqa: PLC0415  (the schema)

        config = parse_published(in_force.text, in_force.where, in_force.config.policy.cluster)
        self._whole = _Whole(in_force, config)
        return self._whole
