"""What ``scaler-sidecar status`` says, as plain values.

These fields are the ``--json`` format, documented in ``docs/status.md``: within one ``format`` fields may be added, but none is
renamed, removed or given another meaning. Times are seconds since the epoch; fields that end in ``_s`` are durations in
seconds as of ``at``, never negative even where two machines' clocks differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from scaler_plugin.core.model import Load, Market, NodeRole, NodeState, SlotState

#: The number of the JSON format; a change that could break a reader gets the next one.
FORMAT = 1


class Doing(str, Enum):
    """What a node does, in one word. The order is that of the node list: what may need a person comes first."""

    DOWN = "down"  # its agents are gone and no task runs
    INTERRUPTED = "interrupted"
    DRAINING = "draining"
    RETIRING = "retiring"
    BOOTING = "booting"
    IDLE = "idle"
    BUSY = "busy"
    STANDBY = "standby"


@dataclass(frozen=True)
class LeaderStatus:
    node: str
    term: int
    since: float
    for_s: float


@dataclass(frozen=True)
class ViewStatus:
    term: int
    fresh: bool
    config_revision: int
    backlog_known: bool


@dataclass(frozen=True)
class QueueStatus:
    name: str
    waiting: int | None
    oldest_since: float | None
    oldest_wait_s: float | None
    unserved: str
    pools: tuple[str, ...]


@dataclass(frozen=True)
class PoolStatus:
    name: str
    queues: tuple[str, ...]
    waiting: int | None
    busy: int
    idle: int
    booting: int
    retiring: int
    down: int
    instances: int
    min_instances: int | None
    max_instances: int | None
    slots: int
    busy_slots: int
    longest_idle_s: float | None
    paused_until: float | None
    pause_left_s: float | None


@dataclass(frozen=True)
class SlotStatus:
    index: int
    state: SlotState
    since: float
    for_s: float
    task_id: str | None
    queue: str | None


@dataclass(frozen=True)
class NodeStatus:
    instance_id: str
    role: NodeRole
    pool: str | None
    instance_type: str
    market: Market
    zone: str
    state: NodeState
    reason: str
    doing: Doing
    for_s: float | None
    idle_for_s: float | None
    leads: bool
    registered_at: float
    age_s: float
    launch_id: str | None
    version: str
    load: Load | None
    slots: tuple[SlotStatus, ...]
    protected: str  # why it stays although it may be idle; empty otherwise


@dataclass(frozen=True)
class LaunchStatus:
    launch_id: str
    pool: str
    count: int
    phase: str
    instance_type: str
    market: Market
    zone: str | None
    candidate: int
    candidates: int
    reason: str
    created_at: float
    age_s: float
    awaited: tuple[str, ...]
    last_error: str | None


@dataclass(frozen=True)
class ProblemStatus:
    """``times`` counts equal failures; ``current`` is false for what may be over."""

    about: str
    what: str
    what_to_do: str
    since: float | None
    for_s: float | None
    current: bool
    times: int
    detail: str


@dataclass(frozen=True)
class EventStatus:
    at: float
    kind: str
    about: str
    sentence: str


@dataclass(frozen=True)
class ZeroStatus:
    """Nothing is up, and a schedule launches a probe every ``probe_every_s``. ``overdue``: the last ones did not look."""

    probe_every_s: float
    last_look_at: float | None
    last_look_s: float | None
    overdue: bool


@dataclass(frozen=True)
class StatusReport:
    format: int
    cluster: str
    at: float
    leader: LeaderStatus | None
    view: ViewStatus | None
    config_revision: int | None
    instances: int
    max_instances: int | None
    queues: tuple[QueueStatus, ...]
    pools: tuple[PoolStatus, ...]
    launches: tuple[LaunchStatus, ...]
    nodes: tuple[NodeStatus, ...]
    problems: tuple[ProblemStatus, ...]
    events: tuple[EventStatus, ...]
    zero: ZeroStatus | None = None
