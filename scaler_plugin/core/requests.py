"""What people ask of single nodes: to leave when their tasks are done, or to stay although they are idle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from scaler_plugin.core.model import InstanceId, Node


@dataclass(frozen=True)
class DrainRequest:
    """Close the gate, finish, end. ``by`` says who asked, for people to read."""

    instance_id: InstanceId
    at: float
    by: str = ""

    @property
    def sentence(self) -> str:
        return f"Somebody asked it to drain{f': {self.by}' if self.by else ''}."


@dataclass(frozen=True)
class ProtectRequest:
    """Do not retire for idleness. Without ``until`` (epoch seconds) it holds until somebody takes it back."""

    instance_id: InstanceId
    at: float
    until: float | None = None
    reason: str = ""
    by: str = ""

    def holds(self, now: float) -> bool:
        return self.until is None or now < self.until

    @property
    def sentence(self) -> str:
        end = (
            f" until {datetime.fromtimestamp(self.until, timezone.utc):%Y-%m-%d %H:%M} UTC"
            if self.until is not None
            else ""
        )
        whom = f" by {self.by}" if self.by else ""
        return f"Protected{end}{whom}{f': {self.reason}' if self.reason else ''}."


@dataclass(frozen=True)
class NodeRequests:
    """All that is asked of one node."""

    drain: DrainRequest | None = None
    protect: ProtectRequest | None = None


def is_over(request: DrainRequest | ProtectRequest, nodes: frozenset[InstanceId], unseen_s: float, now: float) -> bool:
    """Whether a request can be removed: it has run out, or its node has been away for longer than a restart takes.

    Args:
        nodes: the nodes that are registered, or whose instance EC2 still lists.
        unseen_s: how long a node must be unknown before it counts as gone.
    """
    if isinstance(request, ProtectRequest) and not request.holds(now):
        return True
    return request.instance_id not in nodes and now - request.at > unseen_s


def idle(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The nodes on which nothing runs and which are not leaving already."""
    return tuple(node for node in nodes if node.idle_since is not None and not node.leaving)
