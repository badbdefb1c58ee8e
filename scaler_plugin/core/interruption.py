"""What EC2's announcements mean for a node: that it is taken soon, or that it had better leave in its own time.

Spot interruption: two minutes at most. Maintenance that ends or restarts the instance is announced up to weeks ahead: the node
drains from then on (it is replaced, and its task has all the time there is), and counts as interrupted in the last minutes.
Rebalance advice says that an interruption is likely: the node drains.

Source: "Spot Instance interruption notices", "EC2 instance rebalance recommendations" and "Scheduled events" in the EC2 user guide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from scaler_plugin.core.model import NodeState

#: How long before announced maintenance a task that still runs is stopped: enough for its hook, its own abort callback and the
#: way back into its queue.
MAINTENANCE_LEAD_S = 300.0
#: EC2 gives a spot instance no longer than this; a clock that is wrong must not make us believe otherwise.
SPOT_NOTICE_S = 120.0

_DISRUPTIVE = frozenset(
    {"instance-stop", "instance-retirement", "instance-reboot", "system-reboot", "system-maintenance"}
)


@dataclass(frozen=True)
class Notice:
    """One announcement. ``action`` is EC2's own word (``terminate``, ``instance-stop`` …), ``at`` when, epoch seconds."""

    action: str
    at: float
    active: bool = True  # maintenance that is over or was called off stays listed for a while


@dataclass(frozen=True)
class Announced:
    """What follows for the node. ``at`` is when EC2 acts, ``None`` for mere advice."""

    state: NodeState
    reason: str
    action: str = ""
    at: float | None = None

    def seconds_left(self, now: float) -> float:
        """How long the node has, never more than EC2 gives anyone."""
        if self.at is None:
            return 0.0
        most = MAINTENANCE_LEAD_S if self.action in _DISRUPTIVE else SPOT_NOTICE_S
        return min(most, max(0.0, self.at - now))


def weigh(
    spot: Notice | None, rebalance_advised_at: float | None, maintenance: Sequence[Notice], now: float
) -> Announced | None:
    """The most urgent of what EC2 has announced; the sentence stays the same for as long as the announcement does.

    Args:
        spot: the spot interruption.
        rebalance_advised_at: when the advice was given, epoch seconds.
        maintenance: the scheduled events.
        now: seconds since the epoch.
    """
    if spot is not None:
        reason = f"EC2 takes this spot instance back at {_clock(spot.at)} ({spot.action})."
        return Announced(NodeState.INTERRUPTED, reason, spot.action, spot.at)
    ahead = [notice for notice in maintenance if notice.active and notice.action in _DISRUPTIVE]
    if ahead:
        first = min(ahead, key=lambda notice: notice.at)
        soon = first.at - now <= MAINTENANCE_LEAD_S
        reason = f"EC2 has announced {first.action} for {_clock(first.at)}."
        return Announced(NodeState.INTERRUPTED if soon else NodeState.DRAINING, reason, first.action, first.at)
    if rebalance_advised_at is not None:
        reason = (
            f"EC2 advised at {_clock(rebalance_advised_at)} to leave: this spot instance is likely to be taken back."
        )
        return Announced(NodeState.DRAINING, reason)
    return None


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
