"""One machine of the simulated world: the real :class:`Sidecar` (and, while it leads, the real ``Leader``) on in-memory twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from scaler_plugin.agent.memory_gates import MemoryGates, MemorySlots
from scaler_plugin.cloud.metadata import InstanceFacts, MemoryMetadata, SpotInterruption
from scaler_plugin.coordination.config_digest import digest
from scaler_plugin.coordination.config_follower import ConfigFollower
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.registry import Registry
from scaler_plugin.coordination.store import Comparison, Write
from scaler_plugin.core.health import Vitals
from scaler_plugin.core.model import InstanceId, Load, NodeIdentity, NodeRole
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.service import Leader
from scaler_plugin.sidecar.checks import CheckRounds
from scaler_plugin.sidecar.concerns import Concern, Protection
from scaler_plugin.sidecar.farewell import FarewellTools
from scaler_plugin.sidecar.health import Health
from scaler_plugin.sidecar.interruption import POLL_S, Interruptions
from scaler_plugin.sidecar.leading import Leading
from scaler_plugin.sidecar.lifetime import Lifetime
from scaler_plugin.sidecar.ports import NodePorts
from scaler_plugin.sidecar.probing import Probing
from scaler_plugin.sidecar.requests import RequestedOfNode
from scaler_plugin.sidecar.service import Sidecar
from scaler_plugin.sidecar.settings import FollowedSettings
from scaler_plugin.simulation.agents import SimAgent
from scaler_plugin.simulation.clock import SkewedClock
from scaler_plugin.simulation.interruptions import SimHooks, SimSlotEnder
from scaler_plugin.simulation.scheduler import SimProcess
from scaler_plugin.simulation.slow_clients import SimFleet, SimLock, SlowStore, SlowTaskClient

if TYPE_CHECKING:
    from scaler_plugin.simulation.world import World

#: systemd starts a service that died again after this long.
RESTART_S = 2.0
#: From "shut down" to the end of all processes that may matter to a task.
SHUTDOWN_S = 5.0


class SimHost:
    """The machine's operating system. ``stuck`` makes a shutdown have no effect; ``health`` is what it says of itself."""

    def __init__(self, power_off: Callable[[], None]) -> None:
        self._power_off = power_off
        self.stuck = False
        self.health = Vitals()

    def load(self) -> Load:
        return Load(cpu=0.0, memory=0.0)

    def vitals(self) -> Vitals:
        return self.health

    def shut_down(self, reason: str) -> None:
        if not self.stuck:
            self._power_off()


class SimMachine:
    """Boots its processes, restarts those that die, and ends. A standby machine has no slot."""

    def __init__(self, world: World, identity: NodeIdentity, slots: int) -> None:
        self.identity = identity
        self.world = world
        self.host = SimHost(self._begin_shutdown)
        self.on = True
        self.agents: list[SimAgent] = []
        # Of each slot; the child of a killed agent may live on beside the agent that systemd started in its place.
        self._killed: list[tuple[int, SimAgent]] = []
        self.sidecar: Sidecar | None = None
        self.sidecar_process = SimProcess("")
        self.clock = SkewedClock(world.clock)
        self.slots = MemorySlots(slots, self.clock)
        self.store_client = world.store.client(identity.instance_id)
        self.store = SlowStore(self.store_client, world.network, self._wrote)
        self.server = SlowTaskClient(world.server, identity.instance_id)
        self.server.network = world.network
        self.fleet = SimFleet(world.fleet, world.network)
        self.metadata = MemoryMetadata(InstanceFacts(identity.instance_id, market=identity.market))
        self.hooks = SimHooks(self.clock)
        self.checks = SimHooks(self.clock, length_s=0.0, exit_code=world.check_exit_code)
        self.interruptions: Interruptions | None = None
        self._booted_at = self.clock.now()
        self._gates = MemoryGates(self.slots)
        self._poke: Callable[[], None] = lambda: None
        self._poke_interruptions: Callable[[], None] = lambda: None
        self._shutting_down = False
        self._stopped = False  # systemd has ended the services; nothing starts again

    @property
    def busy(self) -> bool:
        """Whether an agent of the machine holds a task, from its pull to its end, or a child of one lives."""
        return any(agent.task_id is not None for agent in self.agents) or any(s.task_lives for s in self.slots.slots)

    @property
    def _all_agents(self) -> list[SimAgent]:
        return [*self.agents, *(agent for _, agent in self._killed)]

    @property
    def processes(self) -> list[SimProcess]:
        """Everything that runs on the machine."""
        children = [agent.child for agent in self._all_agents if agent.child is not None]
        return [self.sidecar_process, *(agent.process for agent in self.agents), *children]

    def pause(self, until: float) -> None:
        """The whole machine stands still until this moment of the world's monotonic clock."""
        for process in self.processes:
            process.paused_until = max(process.paused_until, until)

    @property
    def _restarts(self) -> bool:
        """Whether systemd starts a service that died."""
        return self.on and not self._stopped

    @property
    def leads(self) -> bool:
        return self.sidecar is not None and self.sidecar_process.alive and self.sidecar.report.term is not None

    def _wrote(self, compare: Sequence[Comparison], writes: Sequence[Write]) -> None:
        self.world.on_write(self.identity.instance_id, compare, writes)

    def boot(self) -> None:
        """Start everything that the image's units start."""
        self.start_sidecar()
        for index in range(len(self.slots.slots)):
            self.start_agent(index)

    def start_agent(self, slot: int) -> None:
        pool = self.world.policy.pool(self.identity.pool)
        queues = pool.queues if pool else ()
        agent = SimAgent(
            self.world.scheduler,
            self.slots,
            slot,
            self.identity.worker_id(slot, len(self.slots.slots)),
            queues,
            self.server,
            self.world,
            self.identity.instance_id,
            self.poke,
            self.world.agent_poll_s,
        )
        self.agents = [*self.agents[:slot], agent, *self.agents[slot + 1 :]]
        agent.start()

    def start_sidecar(self) -> None:
        """A new process: nothing of an earlier one's memory is left."""
        world, clock, keys = self.world, self.clock, self.world.keys
        self._gates = MemoryGates(self.slots)
        follower = ConfigFollower(self.store, keys, lambda text, where: digest(text, where, keys.cluster))
        settings = FollowedSettings(follower, lambda _config, _pool, _launch: "")
        lock = partial(SimLock, world.scheduler)
        election = Election(self.store, keys, self.identity.instance_id, clock, world.leader_ttl_s, make_lock=lock)
        registry = Registry(self.store, keys, clock, world.node_ttl_s, make_lock=lock)
        rng = Random(world.rng.getrandbits(32))

        def leader() -> Leader:
            return Leader(
                self.identity.instance_id,
                self.store,
                keys,
                election,
                self.server,
                self.fleet,
                settings.for_leader,
                clock,
                rng,
            )

        ports = NodePorts(self.store, keys, self._gates, self.host, clock, lambda: self.fleet, lambda: self.server)
        leading = Leading(settings, election, clock, leader, lambda _why: None)
        concerns, protections = self._reasons(settings, registry)
        probing = None
        if self.identity.role is NodeRole.PROBE:
            probing = Probing(self.identity.instance_id, self.store, keys, clock, leading, world.leader_ttl_s)
        sidecar = self.sidecar = Sidecar(
            self.identity,
            ports,
            settings,
            election,
            registry,
            leading,
            "simulated",
            concerns=concerns,
            protections=protections,
            probing=probing,
        )
        process = self.sidecar_process = SimProcess(f"sidecar {self.identity.instance_id}")

        def look() -> None:
            while True:
                sidecar.step()
                world.scheduler.sleep(world.step_s, pokable=True)

        def lead() -> None:
            while True:
                leading.step()
                world.scheduler.sleep(max(leading.seconds_to_next_step(), world.lead_step_s), pokable=True)

        self._poke = world.scheduler.spawn(process, look)
        election.watch(world.scheduler.spawn(process, lead))
        for renew, every_s in ((election.renew, election.renew_every_s), (registry.renew, registry.renew_every_s)):
            world.scheduler.spawn(process, world.renewing(renew, every_s))
        if self.interruptions is not None:
            self._spawn_interruptions(process, self.interruptions)

    def _reasons(
        self, settings: FollowedSettings, registry: Registry
    ) -> tuple[tuple[Concern, ...], tuple[Protection, ...]]:
        """Why the node leaves or stays other than for idleness, as ``node.reasons`` puts it together on a real machine."""
        if self.identity.role is not NodeRole.WORKER:
            return (), ()
        store, keys, clock, server = self.store, self.world.keys, self.clock, self.server
        journal = Journal(store, keys, clock)
        tools = FarewellTools(
            self.identity, store, keys, clock, lambda: server, SimSlotEnder(self), self.hooks, journal
        )
        self.interruptions = Interruptions(self.metadata, tools, lambda: settings.policy, self.poke)
        requested = RequestedOfNode(self.identity.instance_id, store, keys, clock, lambda: settings.policy)
        lifetime = Lifetime(self._booted_at, store, keys, registry, clock, lambda: settings.policy)
        health = Health(self.host, settings, clock, CheckRounds(self.checks, clock, {}, lambda _why: None))
        return (self.interruptions, requested, lifetime, health), (requested,)

    def _spawn_interruptions(self, process: SimProcess, interruptions: Interruptions) -> None:
        """Metadata says nothing new unless :meth:`announce` is called: until then the service need not look every few seconds."""

        def body() -> None:
            while True:
                interruptions.step()
                restless = self.metadata.facts != self._quiet_facts
                self.world.scheduler.sleep(
                    interruptions.seconds_to_next_step() if restless else float("inf"), pokable=True
                )

        self._poke_interruptions = self.world.scheduler.spawn(process, body)

    @property
    def _quiet_facts(self) -> InstanceFacts:
        return InstanceFacts(self.identity.instance_id, market=self.identity.market)

    def announce(self, facts: InstanceFacts) -> None:
        """EC2 changes what metadata says; the node looks within its interval of polling."""
        self.metadata.facts = facts
        self.world.scheduler.call_later(self.world.rng.uniform(0, POLL_S), self._look_at_metadata)
        for agent in self.agents:
            agent.look_often()

    def _look_at_metadata(self) -> None:
        self._poke_interruptions()  # that of the process that lives by then

    def announce_interruption(self, notice_s: float = 120.0) -> None:
        """A spot notice; EC2 takes the instance when it has said."""
        at = self.world.epoch + self.world.clock.monotonic() + notice_s
        self.announce(replace(self._quiet_facts, spot_interruption=SpotInterruption("terminate", at)))
        self.world.scheduler.call_later(notice_s, lambda: self.world.fleet.interrupt(self.identity.instance_id))

    def announce_rebalance(self) -> None:
        """EC2's advice to leave; it may never take the instance."""
        at = self.world.epoch + self.world.clock.monotonic()
        self.announce(replace(self._quiet_facts, rebalance_recommended_at=at))

    def poke(self) -> None:
        """Wake the sidecar up, as its sockets and its watch do."""
        if self.sidecar_process.alive:
            self._poke()

    def kill_sidecar(self) -> None:
        """SIGKILL; systemd starts it again."""
        self.sidecar_process.kill()
        self._gates.crash()
        self.store_client.close()  # its connections
        self.world.scheduler.call_later(RESTART_S, lambda: self.start_sidecar() if self._restarts else None)

    def kill_agent(self, slot: int) -> None:
        """SIGKILL; systemd starts it again. The task's child lives on."""
        self.agents[slot].kill()
        self._killed.append((slot, self.agents[slot]))
        self.world.scheduler.call_later(RESTART_S, lambda: self.start_agent(slot) if self._restarts else None)
        self.poke()

    def kill_slot(self, slot: int) -> None:
        """SIGKILL to the agent and all of its task, or what an earlier agent left of one; systemd starts the agent again."""
        for its_slot, agent in self._killed:
            if its_slot == slot:
                agent.kill_child()
        self.agents[slot].kill_with_task()
        self.world.scheduler.call_later(RESTART_S, lambda: self.start_agent(slot) if self._restarts else None)
        self.poke()

    def power_off(self) -> None:
        """Everything on the machine ends at this moment."""
        self.on = False
        self.sidecar_process.kill()
        for agent in self._all_agents:
            agent.process.kill()
            agent.kill_child()

    def _begin_shutdown(self) -> None:
        if not self._shutting_down:
            self._shutting_down = True
            self.world.scheduler.spawn(SimProcess(f"systemd {self.identity.instance_id}"), self._shut_down)

    def _shut_down(self) -> None:
        """What systemd does: the agents first, then the sidecar, then all the rest, then the power."""
        scheduler = self.world.scheduler
        scheduler.sleep(SHUTDOWN_S)
        if not self.on:
            return
        self.world.about_to_shut_down(self)
        self._stopped = True
        for _, killed in self._killed:
            killed.kill_child()
        for agent in self.agents:
            agent.terminate()
        if self.sidecar is not None and self.sidecar_process.alive:
            self.sidecar_process.kill()
            self.sidecar.stop()
        scheduler.sleep(self.world.power_off_s(self.world.rng))
        if self.on:
            self.power_off()
            self.world.fleet.guest_shut_down(self.identity.instance_id)


def standby_identity(cluster: str) -> NodeIdentity:
    return NodeIdentity(cluster, InstanceId("standby-1"), NodeRole.STANDBY, instance_type="standby")
