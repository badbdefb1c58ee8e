"""The words of the system as types: what a cluster consists of, at one moment, as plain immutable values.

Times are seconds since the epoch as ``float`` unless a name says otherwise; durations end in ``_s``. Values that are stored
in etcd are written as JSON by :mod:`scaler_plugin.coordination.codec`, field by field under the names used here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

InstanceId = NewType("InstanceId", str)
PoolName = NewType("PoolName", str)
QueueName = NewType("QueueName", str)
TaskId = NewType("TaskId", str)
LaunchId = NewType("LaunchId", str)
WorkerId = NewType("WorkerId", str)


class Market(str, Enum):
    """How EC2 sells the instance; the values are those of ``InstanceLifecycle`` (absent there means on-demand)."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"


class NodeRole(str, Enum):
    WORKER = "worker"  # runs agents
    STANDBY = "standby"  # runs none and only stands for election
    PROBE = "probe"  # runs none, wakes a cluster that has scaled to zero, and ends


class NodeState(str, Enum):
    UP = "up"
    DRAINING = "draining"  # finishes its task, pulls no other, then retires
    INTERRUPTED = "interrupted"  # EC2 has announced that it will take the instance
    RETIRING = "retiring"  # its gates are closed for good; the instance is about to end


class SlotState(str, Enum):
    STARTING = "starting"  # no agent has reported on this slot since the machine booted
    IDLE = "idle"  # an agent polls its queues
    BUSY = "busy"  # a task runs, or a process of one is still alive
    DOWN = "down"  # the agent's process is gone and nothing of a task is left


@dataclass(frozen=True)
class Slot:
    """One ``clearml-agent`` daemon on a node. ``since`` is when it came into its present state.

    ``pulling_since`` is set while the agent has been asking for a task for remarkably long: it may hold one that nobody
    else knows of yet. ``problem`` says as a sentence what is wrong with the slot's files, which a task may have done.
    """

    index: int
    state: SlotState
    since: float
    task_id: TaskId | None = None
    queue: QueueName | None = None
    pulling_since: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Load:
    """How much of the machine is in use, each in percent (0 to 100); GPU values are the mean over the node's GPUs."""

    cpu: float
    memory: float
    gpu: float | None = None
    gpu_memory: float | None = None


@dataclass(frozen=True)
class NodeIdentity:
    """What does not change over a node's life: read once from instance metadata and user-data."""

    cluster: str
    instance_id: InstanceId
    role: NodeRole
    pool: PoolName | None = None
    instance_type: str = ""
    market: Market = Market.ON_DEMAND
    zone: str = ""
    launch_id: LaunchId | None = None

    def worker_id(self, slot: int, slots: int) -> WorkerId:
        """The ClearML worker id ``<cluster>:<pool>:<instance-type>:<instance-id>[:<slot>]``.

        ClearML's own tools split worker ids at ``:`` into prefix, resource, type and cloud id
        (``clearml.automation.cloud_driver.parse_worker_id`` and the autoscaler's regular expression); the slot
        is appended only where a node has several.
        """
        base = f"{self.cluster}:{self.pool}:{self.instance_type}:{self.instance_id}"
        return WorkerId(base if slots == 1 else f"{base}:{slot}")


@dataclass(frozen=True)
class Node:
    """A node's own record in etcd (``nodes/<instance-id>``, under the node's lease: if it is there, the sidecar lives)."""

    identity: NodeIdentity
    state: NodeState
    registered_at: float
    slots: tuple[Slot, ...] = ()
    load: Load | None = None
    reason: str = ""  # why the state is not UP, as a sentence
    version: str = ""
    protected: str = ""  # why it stays although it is idle, as a sentence
    worked: bool = False  # a task has run on it since its sidecar started
    unfit: bool = False  # it leaves because it can't do its work: its machine is not fit, or its agent never came up

    @property
    def instance_id(self) -> InstanceId:
        return self.identity.instance_id

    @property
    def pool(self) -> PoolName | None:
        return self.identity.pool

    @property
    def busy(self) -> bool:
        return any(slot.state is SlotState.BUSY for slot in self.slots)

    @property
    def useless(self) -> bool:
        """Whether it leaves without ever having been of use."""
        return self.unfit and not self.worked

    @property
    def leaving(self) -> bool:
        """Whether the node takes no further task and will end, whatever the backlog and the pool's minimum."""
        return self.state in (NodeState.DRAINING, NodeState.INTERRUPTED)

    @property
    def idle_since(self) -> float | None:
        """When the last of the node's slots became idle; ``None`` unless all of them are."""
        if not self.slots or any(slot.state is not SlotState.IDLE for slot in self.slots):
            return None
        return max(slot.since for slot in self.slots)


class InstanceState(str, Enum):
    """EC2's own instance states (``Instance.State.Name``)."""

    PENDING = "pending"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"
    STOPPING = "stopping"
    STOPPED = "stopped"

    @property
    def ending(self) -> bool:
        """True once nothing will run on the instance again and it no longer counts against a maximum."""
        return self in (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED)


@dataclass(frozen=True)
class Instance:
    """An instance of the cluster as EC2 lists it; pool, launch id and role are read from its tags."""

    instance_id: InstanceId
    state: InstanceState
    launched_at: float
    pool: PoolName | None = None
    launch_id: LaunchId | None = None
    instance_type: str = ""
    market: Market = Market.ON_DEMAND
    zone: str = ""
    role: NodeRole = NodeRole.WORKER


@dataclass(frozen=True)
class Volume:
    """The root EBS volume. ``size_gb`` in GiB; ``iops`` and ``throughput`` (MiB/s) only where the type takes them."""

    device_name: str
    size_gb: int
    volume_type: str = "gp3"
    iops: int | None = None
    throughput: int | None = None
    encrypted: bool = True


@dataclass(frozen=True)
class LaunchRequest:
    """All parameters of one RunInstances call except its client token.

    It is stored whole in the launch record: repeating a call with the same ``ClientToken`` is only idempotent when every
    parameter is the same (otherwise EC2 answers ``IdempotentParameterMismatch``), and the config may have changed meanwhile.
    """

    cluster: str
    pool: PoolName
    launch_id: LaunchId
    count: int
    instance_type: str
    image_id: str
    market: Market = Market.ON_DEMAND
    subnet_id: str | None = None
    zone: str | None = None
    security_group_ids: tuple[str, ...] = ()
    key_name: str | None = None
    instance_profile: str | None = None  # name or ARN
    volume: Volume | None = None
    tags: tuple[tuple[str, str], ...] = ()  # the user's own; the cluster's tags are added by the adapter
    user_data: str = ""  # plain text, never a secret
    launch_template: str | None = None  # by name, at its newest version; what the request says itself has precedence


@dataclass(frozen=True)
class Attempt:
    """One call of RunInstances for a launch, written *before* the call is made.

    ``instance_ids`` or ``error`` is filled in when the outcome is known (``answered_at``); while neither is, the call may
    have been made.
    """

    number: int
    token: str
    request: LaunchRequest
    started_at: float
    instance_ids: tuple[InstanceId, ...] = ()
    error: str | None = None
    answered_at: float | None = None

    @property
    def open(self) -> bool:
        return not self.instance_ids and self.error is None


@dataclass(frozen=True)
class Launch:
    """The durable promise "``count`` instances for this pool" (``launches/<id>``).

    ``requests`` are the calls to try in order (candidates); ``attempts`` those tried, at most one of them open, the last.
    ``awaited`` are the instances of a successful attempt whose nodes have not registered yet.
    """

    launch_id: LaunchId
    pool: PoolName
    count: int
    slots_per_node: int
    term: int
    created_at: float
    reason: str
    candidates: tuple[LaunchRequest, ...]
    attempts: tuple[Attempt, ...] = ()
    awaited: tuple[InstanceId, ...] = ()

    @property
    def open_attempt(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts and self.attempts[-1].open else None

    @property
    def instance_ids(self) -> tuple[InstanceId, ...]:
        return tuple(i for attempt in self.attempts for i in attempt.instance_ids)

    @property
    def awaited_since(self) -> float:
        """Since when its instances may be expected to register: a call can be answered long after it was written down."""
        last = self.attempts[-1]
        return last.started_at if last.answered_at is None else last.answered_at


@dataclass(frozen=True)
class Backlog:
    """The tasks waiting in a queue, in the queue's order. ``oldest_since`` is when the longest-waiting one was added.

    ``tags`` are the queue's own. ``last_added_at`` is when a task was last put into the queue, as far as the server tells: a task
    that came and was pulled between two looks shows in nothing else.
    """

    queue: QueueName
    task_ids: tuple[TaskId, ...] = ()
    oldest_since: float | None = None
    tags: tuple[str, ...] = ()
    last_added_at: float | None = field(default=None, compare=False)  # other changes may move it, too

    def __len__(self) -> int:
        return len(self.task_ids)


@dataclass(frozen=True)
class ClearmlWorker:
    """A worker as the ClearML server lists it. It stays listed for 600 s after its last report."""

    worker_id: WorkerId
    task_id: TaskId | None = None
    last_report_at: float | None = None


class TaskStatus(str, Enum):
    """The ClearML server's own task statuses, as far as agents, people and rescue bring a task into them."""

    CREATED = "created"
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True)
class ServerTask:
    """A task that is queued or in progress, as the ClearML server knows it.

    ``queue`` is the queue it was last put into (``execution.queue``), which says nothing about whether it still waits
    there. ``worker_id`` is the last worker that reported it, ``last_update_at`` its last sign of life. ``requeues`` is how
    often a rescue has put it back, counted on the task itself.
    """

    task_id: TaskId
    status: TaskStatus
    queue: QueueName | None
    status_changed_at: float
    last_update_at: float
    worker_id: WorkerId | None = None
    tags: tuple[str, ...] = ()
    requeues: int = 0


@dataclass(frozen=True)
class TaskPage:
    """A part of a listing of tasks. ``last`` when nothing follows; a page may lack tasks that could not be understood."""

    tasks: tuple[ServerTask, ...]
    last: bool


@dataclass(frozen=True)
class TaskInHand:
    """One task as the server has it, for whoever is about to end it.

    ``stopping`` is set when somebody has asked already that it be stopped. ``abort_callback_s`` is how long its agent then
    waits for the abort callback that the task itself registered, ``None`` where it registered none.
    """

    task: ServerTask
    stopping: bool = False
    abort_callback_s: float | None = None


@dataclass(frozen=True)
class Problem:
    """Something a person may have to act on, as ``status`` shows it. ``about`` names the part (pool, instance, ``ec2``…)."""

    about: str
    what: str
    what_to_do: str
    since: float
    detail: str = field(default="", compare=False)  # e.g. the tail of a console output
