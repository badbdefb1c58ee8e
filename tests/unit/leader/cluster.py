"""A cluster without machines: etcd, EC2 and ClearML in memory, and leaders that a test kills, pauses and replaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from scaler_plugin.clearml_server.memory import MemoryTaskServer
from scaler_plugin.clearml_server.memory_client import MemoryTaskClient
from scaler_plugin.cloud.memory_fleet import MemoryFleet
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.events import Event
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_book import LaunchBook
from scaler_plugin.coordination.memory_store import MemoryClient, MemoryStore
from scaler_plugin.coordination.published_view import read_view
from scaler_plugin.coordination.registry import Registry, read_nodes
from scaler_plugin.core.model import (
    Instance,
    InstanceId,
    InstanceState,
    Launch,
    LaunchId,
    LaunchRequest,
    Node,
    NodeIdentity,
    NodeRole,
    NodeState,
    PoolName,
    QueueName,
    Slot,
    SlotState,
    TaskId,
)
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy
from scaler_plugin.core.view import View
from scaler_plugin.leader.service import Leader
from scaler_plugin.leader.settings import LeaderSettings
from scaler_plugin.simulation.clock import VirtualClock

T = TypeVar("T")
KEYS = Keys("/scaler", "c")
TTL_S = 10
POLL_S = 2.0


class Died(BaseException):
    """SIGKILL at this line: nothing after it runs in that process."""


class FleetClient:
    """EC2 as one leader reaches it: counts calls; ``before`` and ``after`` hold what happens at the next call of a method."""

    def __init__(self, fleet: MemoryFleet) -> None:
        self._fleet = fleet
        self.calls: Counter[str] = Counter()
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[], None]] = {}

    def run_instances(self, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        return self._call("run_instances", lambda: self._fleet.run_instances(request, token))

    def instances(self) -> tuple[Instance, ...]:
        return self._call("instances", self._fleet.instances)

    def instances_of(self, launch_id: LaunchId) -> tuple[Instance, ...]:
        return self._call("instances_of", lambda: self._fleet.instances_of(launch_id))

    def terminate(self, instance_ids: Sequence[InstanceId]) -> None:
        self._call("terminate", lambda: self._fleet.terminate(instance_ids))

    def console_output(self, instance_id: InstanceId) -> str:
        return self._call("console_output", lambda: self._fleet.console_output(instance_id))

    def _call(self, method: str, work: Callable[[], T]) -> T:
        self.calls[method] += 1
        if (act := self.before.pop(method, None)) is not None:
            act()
        answer = work()
        if (act := self.after.pop(method, None)) is not None:
            act()
        return answer


class Seat:
    """One candidate's process."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.store: MemoryClient = cluster.etcd.client(name)
        self.server: MemoryTaskClient = cluster.server.client(name)
        self.fleet = FleetClient(cluster.fleet)
        self.election = Election(self.store, KEYS, name, cluster.clock, TTL_S)
        self.leader = Leader(
            name,
            self.store,
            KEYS,
            self.election,
            self.server,
            self.fleet,
            lambda: cluster.settings,
            cluster.clock,
            Random(7),
        )

    def lead(self) -> None:
        """Campaign if necessary, and make one pass."""
        assert self.election.step() is not None, f"{self.name} does not lead"
        self.election.renew()
        self.leader.step()


class Cluster:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.etcd = MemoryStore(self.clock)
        self.server = MemoryTaskServer(self.clock)
        self.fleet = MemoryFleet("c", self.clock, boot_delay_s=30.0)
        self.seats = 0
        self.registries: dict[InstanceId, Registry] = {}
        self.set_policy(PoolPolicy(PoolName("cpu"), (QueueName("cpu-tasks"),), 10))
        self.server.create_queue(QueueName("cpu-tasks"))

    def set_policy(self, *pools: PoolPolicy, maximum: int = 100, types: tuple[str, ...] = ("c5.large",)) -> None:
        def candidates(pool: PoolName, launch_id: LaunchId, count: int) -> tuple[LaunchRequest, ...]:
            return tuple(LaunchRequest("c", pool, launch_id, count, kind, "ami-1") for kind in types)

        self.settings = LeaderSettings(1, ClusterPolicy("c", pools, maximum, poll_interval_s=POLL_S), candidates)

    def seat(self, name: str = "") -> Seat:
        self.seats += 1
        return Seat(self, name or f"standby-{self.seats}")

    def enqueue(self, number: int = 1, queue: str = "cpu-tasks") -> list[TaskId]:
        tasks = [self.server.create_task() for _ in range(number)]
        for task in tasks:
            self.server.enqueue(task, QueueName(queue))
        return tasks

    def passes(self, seat: Seat, seconds: float) -> None:
        """Let the seat lead for so long, a pass every poll interval."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.clock.advance(POLL_S)
            for registry in self.registries.values():
                registry.renew()
            seat.lead()

    def after_ttl(self) -> None:
        """The dead leader's key expires."""
        self.clock.advance(TTL_S + 0.5)
        self.etcd.tick()

    def register(self, instance_id: str, state: SlotState = SlotState.IDLE, pool: str = "cpu") -> Registry:
        """The instance's sidecar registers its node."""
        name = InstanceId(instance_id)
        launch = next((i.launch_id for i in self.fleet.instances() if i.instance_id == name), None)
        identity = NodeIdentity("c", name, NodeRole.WORKER, PoolName(pool), launch_id=launch)
        registry = self.registries.setdefault(name, Registry(self.etcd.client(instance_id), KEYS, self.clock))
        now = self.clock.now()
        registry.publish(Node(identity, NodeState.UP, now, (Slot(0, state, now),)))
        return registry

    @property
    def living(self) -> list[Instance]:
        return [i for i in self.fleet.instances() if not i.state.ending]

    def state_of(self, instance_id: str) -> InstanceState:
        return next(i.state for i in self.fleet.instances() if i.instance_id == instance_id)

    @property
    def launches(self) -> tuple[Launch, ...]:
        return LaunchBook(self.etcd.client("observer"), KEYS).read()

    @property
    def view(self) -> View:
        view = read_view(self.etcd.client("observer"), KEYS)
        assert view is not None
        return view

    @property
    def nodes(self) -> tuple[Node, ...]:
        return read_nodes(self.etcd.client("observer"), KEYS)

    def events(self, kind: str) -> list[Event]:
        return [event for event in read_events(self.etcd.client("observer"), KEYS) if event.kind == kind]

    @property
    def revision(self) -> int:
        return self.etcd.client("observer").transact([], []).revision

    def problems(self) -> dict[str, str]:
        return {problem.about: problem.what for problem in self.view.problems}
