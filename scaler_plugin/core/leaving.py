"""A node's way out other than idleness: what is demanded of it, and which of several demands counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scaler_plugin.core.model import NodeState

#: An announced end by EC2 comes before a drain: its time is not ours.
_URGENCY = (NodeState.INTERRUPTED, NodeState.DRAINING)


@dataclass(frozen=True)
class Demand:
    """``state`` is ``DRAINING`` (finish the task, then end) or ``INTERRUPTED`` (EC2 takes the instance soon).

    ``ready`` is false while something must still be done on the node before it ends, although nothing may run on it. ``unfit``
    says that the machine can't do its work.
    """

    state: NodeState
    reason: str
    ready: bool = True
    unfit: bool = False


def strongest(demands: Iterable[Demand | None]) -> Demand | None:
    """The demand that the node shows and follows: the most urgent, the first of equals."""
    return min((d for d in demands if d is not None), key=lambda d: _URGENCY.index(d.state), default=None)
