"""Nodes on in-memory twins: each a real sidecar with its gates, its host and its candidacy; a test moves the clock."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from scaler_plugin.agent.memory_gates import MemoryAgentSlot, MemoryGates, MemorySlots
from scaler_plugin.clearml_server.memory import MemoryTaskServer
from scaler_plugin.cloud.memory_fleet import MemoryFleet
from scaler_plugin.coordination.config_digest import digest
from scaler_plugin.coordination.config_follower import ConfigFollower
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.events import Event
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import MemoryStore
from scaler_plugin.coordination.registry import Registry, read_nodes
from scaler_plugin.coordination.store import Put
from scaler_plugin.core.health import Vitals
from scaler_plugin.core.model import (
    InstanceId,
    LaunchId,
    LaunchRequest,
    Load,
    Node,
    NodeIdentity,
    NodeRole,
    PoolName,
    QueueName,
    TaskId,
)
from scaler_plugin.core.ports import Fleet
from scaler_plugin.errors import CloudRefused, HostError, StoreError
from scaler_plugin.leader.service import Leader
from scaler_plugin.sidecar.checks import CheckRounds
from scaler_plugin.sidecar.health import Health
from scaler_plugin.sidecar.leading import Leading
from scaler_plugin.sidecar.ports import NodePorts
from scaler_plugin.sidecar.service import STEP_S, Sidecar
from scaler_plugin.sidecar.settings import FollowedSettings
from scaler_plugin.simulation.clock import VirtualClock

from .scripted_hooks import ScriptedHooks

KEYS = Keys("/scaler", "c")
POOL: dict[str, Any] = {
    "name": "cpu",
    "queues": ["cpu-tasks"],
    "instance_types": ["c5.large"],
    "ami": "ami-12345678",
    "max_instances": 10,
    "idle_timeout": "60s",
    "startup_timeout": "5m",
}


class SimpleHost:
    """An operating system that notes what it is asked for. ``works`` False: shutting down is refused."""

    def __init__(self) -> None:
        self.shutdowns: list[str] = []
        self.works = True
        self.cpu = 0.0
        self.health = Vitals()

    def vitals(self) -> Vitals:
        return self.health

    def load(self) -> Load:
        return Load(self.cpu, 0.0)

    def shut_down(self, reason: str) -> None:
        if not self.works:
            raise HostError("The shutdown command could not be started.")
        self.shutdowns.append(reason)


class OneNode:
    """A machine. ``start`` makes a new sidecar process on it, which remembers nothing of an earlier one."""

    def __init__(self, world: NodeWorld, instance_id: InstanceId, slots: int, role: NodeRole) -> None:
        self.world = world
        self.role = role
        self.machine = MemorySlots(slots, world.clock)
        self.agents = [MemoryAgentSlot(self.machine, i) for i in range(slots)]
        self.host = SimpleHost()
        self.identity = NodeIdentity(
            "c",
            instance_id,
            role,
            PoolName("cpu") if role is NodeRole.WORKER else None,
            "c5.large",
        )
        self.store = world.etcd.client(instance_id)
        self.server = world.server.client(instance_id)
        self.unfit: list[str] = []
        self.hooks = ScriptedHooks()
        self.unusable_checks: list[str] = []
        self.unseen: list[str] = []
        self.start()

    @property
    def id(self) -> InstanceId:
        return self.identity.instance_id

    def start(self) -> None:
        world, clock = self.world, self.world.clock
        self.gates = MemoryGates(self.machine)
        follower = ConfigFollower(self.store, KEYS, lambda text, where: digest(text, where, "c"))
        settings = FollowedSettings(follower, lambda _config, _pool, _launch: "")
        self.election = Election(self.store, KEYS, self.id, clock)
        self.registry = Registry(self.store, KEYS, clock)

        def leader() -> Leader:
            world.leaders_made += 1
            return Leader(
                self.id,
                self.store,
                KEYS,
                self.election,
                self.server,
                world.fleet,
                settings.for_leader,
                clock,
                Random(3),
            )

        ports = NodePorts(
            self.store, KEYS, self.gates, self.host, clock, lambda: self.world.fleet_port, lambda: self.server
        )
        self.leading = Leading(settings, self.election, clock, leader, self.unfit.append)
        checks = CheckRounds(self.hooks, clock, {}, self.unusable_checks.append)
        health = Health(self.host, settings, clock, checks, self.unseen.append)
        self.sidecar = Sidecar(
            self.identity, ports, settings, self.election, self.registry, self.leading, "test", concerns=(health,)
        )

    def step(self) -> None:
        """What the machine's threads do in a second."""
        if not self.ending:
            for agent in self.agents:
                if agent.try_enter_pull():
                    agent.finish_pull(None)
        self.sidecar.step()
        self.leading.step()
        for renew in (self.registry.renew, self.election.renew):
            try:
                renew()
            except StoreError:
                continue

    @property
    def ending(self) -> bool:
        return self.sidecar.report.ending

    def pull(self, slot: int = 0) -> bool:
        """The agent asks for a task and gets one, if its gate lets it."""
        if not self.agents[slot].try_enter_pull():
            return False
        self.agents[slot].finish_pull(TaskId("t-1"), QueueName("cpu-tasks"))
        return True


class NodeWorld:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.etcd = MemoryStore(self.clock)
        self.server = MemoryTaskServer(self.clock)
        self.fleet = MemoryFleet("c", self.clock)
        self.fleet_port: Fleet = self.fleet
        self.leaders_made = 0
        self.nodes: list[OneNode] = []
        self.people = self.etcd.client("people")
        self.configure()

    def configure(self, cluster: dict[str, Any] | None = None, **pool: Any) -> None:
        config = {"cluster": "c", "pools": [{**POOL, **pool}], **(cluster or {})}
        self.people.transact([], [Put(KEYS.config, json.dumps(config))])

    def worker(self, slots: int = 1) -> OneNode:
        """An instance that EC2 runs, with a sidecar and its agents."""
        number = LaunchId(f"l-{len(self.nodes)}")
        request = LaunchRequest("c", PoolName("cpu"), number, 1, "c5.large", "ami-12345678")
        (instance_id,) = self.fleet.run_instances(request, number)
        return self._add(OneNode(self, instance_id, slots, NodeRole.WORKER))

    def standby(self, name: str = "standby-1") -> OneNode:
        return self._add(OneNode(self, InstanceId(name), 0, NodeRole.STANDBY))

    def _add(self, node: OneNode) -> OneNode:
        self.nodes.append(node)
        return node

    def run(self, seconds: float) -> None:
        """Let every node live for so long."""
        for _ in range(round(seconds / STEP_S)):
            self.clock.advance(STEP_S)
            self.etcd.tick()
            for node in self.nodes:
                node.step()

    def enqueue(self, number: int = 1) -> None:
        for _ in range(number):
            self.server.enqueue(self.server.create_task(), QueueName("cpu-tasks"))

    def records(self) -> dict[InstanceId, Node]:
        return {node.instance_id: node for node in read_nodes(self.people, KEYS)}

    def events(self, kind: str) -> list[Event]:
        return [event for event in read_events(self.people, KEYS) if event.kind == kind]

    @property
    def revision(self) -> int:
        return self.people.transact([], []).revision


class NoEc2:
    """EC2 for a machine without the right to anything."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object) -> None:
            raise CloudRefused(f"EC2 refused {name}.", "UnauthorizedOperation")

        return refuse
