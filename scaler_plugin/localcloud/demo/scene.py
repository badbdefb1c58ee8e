"""What the demo sees at one moment, and the report made of it. Times end in ``_s``: seconds since the demo's beginning."""

from __future__ import annotations

from dataclasses import dataclass

from scaler_plugin.core.model import Node

#: Statuses of ClearML after which nothing more happens to a task by itself.
FINAL = frozenset({"completed", "failed", "stopped", "closed", "published"})
DONE = frozenset({"completed", "published", "closed"})


@dataclass(frozen=True)
class TaskSeen:
    """``wait_s`` from the enqueueing to the start, ``run_s`` from there to the end; ``None`` while there is no such moment.

    ``in_queue`` tells a task that waits from one that is in limbo: ``queued`` in no queue.
    """

    id: str
    name: str
    queue: str
    status: str
    in_queue: bool = False
    wait_s: float | None = None
    run_s: float | None = None
    node: str | None = None

    @property
    def lost(self) -> bool:
        """Neither completed nor where a worker will find it."""
        return self.status not in DONE and not (self.status == "queued" and self.in_queue)


@dataclass(frozen=True)
class InstanceSeen:
    """``ended_by``: ``guest`` (its own shutdown), ``api`` (TerminateInstances) or ``ec2`` (it lost its host)."""

    id: str
    pool: str
    state: str
    launched_s: float
    ended_s: float | None = None
    ended_by: str | None = None

    @property
    def left(self) -> bool:
        return self.state != "terminated"


@dataclass(frozen=True)
class TermSeen:
    """A leader's term. ``to_s`` is ``None`` while it lasts."""

    node: str
    term: int
    from_s: float
    to_s: float | None = None


@dataclass(frozen=True)
class Scene:
    """``nodes`` are etcd's; ``away`` names the servers that did not answer, whose last words are shown instead."""

    at_s: float
    tasks: tuple[TaskSeen, ...] = ()
    instances: tuple[InstanceSeen, ...] = ()
    terms: tuple[TermSeen, ...] = ()
    nodes: tuple[Node, ...] = ()
    away: frozenset[str] = frozenset()

    @property
    def over(self) -> bool:
        """Every task has ended and every instance too."""
        return all(task.status in FINAL for task in self.tasks) and not any(i.left for i in self.instances)

    @property
    def leader(self) -> TermSeen | None:
        return next((term for term in self.terms if term.to_s is None), None)
