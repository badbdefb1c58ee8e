"""``sessions_keep_alive``: somebody logged in counts as activity; the node stays until ``idle_timeout`` after the last session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from scaler_plugin.core.model import Node
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock

#: Looking through the machine's processes takes some milliseconds; nobody logs in and out within this.
LOOK_EVERY_S = 15.0


class Logins(Protocol):
    def sessions(self) -> tuple[str, ...]:
        """Who is logged in, each as a few words such as ``ubuntu by SSH``. Raises nothing."""


class Sessions:
    """A :class:`~scaler_plugin.sidecar.concerns.Protection`."""

    def __init__(self, logins: Logins, clock: Clock, policy: Callable[[], ClusterPolicy | None]) -> None:
        self._logins = logins
        self._clock = clock
        self._policy = policy
        self._next_look_at = float("-inf")
        self._seen_at: float | None = None
        self._present: tuple[str, ...] = ()

    def why_protected(self, node: Node) -> str | None:
        policy = self._policy()
        pool = policy.pool(node.pool) if policy is not None else None
        if pool is None or not pool.sessions_keep_alive:
            return None
        now = self._clock.monotonic()
        if now >= self._next_look_at:
            self._next_look_at = now + LOOK_EVERY_S
            self._present = self._logins.sessions()
            if self._present:
                self._seen_at = now
        if self._present:
            return f"Somebody is logged in: {', '.join(self._present)}."
        if self._seen_at is not None and now - self._seen_at < (pool.idle_timeout_s or 0.0):
            return "Somebody was logged in until a short time ago."
        return None
