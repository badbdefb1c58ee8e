"""What one pass of the leader takes from the configuration, at one revision of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from scaler_plugin.core.model import LaunchId, LaunchRequest, PoolName
from scaler_plugin.core.policy import ClusterPolicy

#: Turns a decision into whole RunInstances requests, in order of preference: at least one.
CandidateSource: TypeAlias = Callable[[PoolName, LaunchId, int], tuple[LaunchRequest, ...]]


@dataclass(frozen=True)
class LeaderSettings:
    """``problem`` says why the newest configuration is not the one in force, where that is so."""

    revision: int
    policy: ClusterPolicy
    candidates: CandidateSource
    problem: str | None = None
