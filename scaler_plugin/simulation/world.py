"""A whole cluster on one virtual clock: ClearML, EC2 and etcd in memory, and machines that run the real services.

The world boots a machine for every instance that EC2 starts, and ends it with the instance. What happens in it beyond that
(arrivals, faults) is put on its schedule from outside; what must hold is checked by :mod:`scaler_plugin.simulation.invariants`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

from scaler_plugin.clearml_server.memory import WATCHDOG_ROUND_S, MemoryTaskServer
from scaler_plugin.cloud.memory_fleet import MemoryFleet
from scaler_plugin.config.policy import cluster_policy
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import MemoryStore
from scaler_plugin.coordination.published_config import push_config
from scaler_plugin.coordination.store import Comparison, Write
from scaler_plugin.core.model import InstanceId, InstanceState, NodeIdentity, NodeRole, QueueName, TaskId
from scaler_plugin.errors import StoreError
from scaler_plugin.simulation.clock import VirtualClock
from scaler_plugin.simulation.machine import SimMachine, standby_identity
from scaler_plugin.simulation.probe_schedule import ProbeSchedule
from scaler_plugin.simulation.scheduler import Scheduler, SimProcess
from scaler_plugin.simulation.slow_clients import Network
from scaler_plugin.simulation.workload import Durations

#: A task that has run for less when its instance is terminated may have started after ClearML was asked; rescue puts it back.
JUST_STARTED_S = 10.0

WriteWatcher: TypeAlias = Callable[[InstanceId, Sequence[Comparison], Sequence[Write]], None]


class World:
    """``step_s`` (a sidecar's look when nothing wakes it), ``lead_step_s`` (a candidate's), ``node_ttl_s`` and ``agent_poll_s`` are
    coarser than in life where a day should pass in seconds. ``one_way_s`` draws how long a call travels each way, ``power_off_s``
    how long a system goes on stopping, and its instance counts as running, when its services have ended. With
    ``probe_every_s`` a schedule launches probes, and no standby machine is up.
    """

    def __init__(
        self,
        config: ScalerConfig,
        seed: int,
        *,
        boot_s: float = 60.0,
        step_s: float = 15.0,
        node_ttl_s: int = 90,
        agent_poll_s: float = 10.0,
        lead_step_s: float = 1.0,
        one_way_s: Callable[[Random], float] = lambda _rng: 0.0,
        power_off_s: Callable[[Random], float] = lambda _rng: 0.0,
        probe_every_s: float | None = None,
    ) -> None:
        self.config = config
        self.rng = Random(seed)
        self.clock = VirtualClock()
        self.epoch = self.clock.now()
        self.scheduler = Scheduler(self.clock)
        self.network = Network(self.scheduler, lambda: one_way_s(self.rng))
        self.store = MemoryStore(self.clock)
        self.server = MemoryTaskServer(self.clock)
        self.fleet = MemoryFleet(config.cluster, self.clock, boot_delay_s=boot_s)
        self.keys = Keys(config.prefix, config.cluster)
        self.policy = cluster_policy(config)
        self.leader_ttl_s = round(config.leader_ttl.seconds)
        self.step_s = step_s
        self.node_ttl_s = node_ttl_s
        self.agent_poll_s = agent_poll_s
        self.power_off_s = power_off_s
        self.lead_step_s = lead_step_s
        self.workload = Durations()
        self.check_exit_code = 0  # of the pools' own checks, on machines that boot from now on
        self.machines: dict[InstanceId, SimMachine] = {}
        #: Called after every step of the world, with it; raises when something does not hold.
        self.watchers: list[Callable[[World], None]] = []
        #: What happened, for people; and the promises that were broken, in order.
        self.notes: list[str] = []
        self.broken: list[str] = []
        #: Called with each transaction that was made: by which machine, its comparisons and its writes.
        self.on_write: WriteWatcher = lambda _machine, _compare, _writes: None
        self._running: dict[TaskId, tuple[InstanceId, float]] = {}
        push_config(self.store.client("people"), self.keys, config)
        self.standby = SimMachine(self, standby_identity(config.cluster), slots=0)
        self.schedule = ProbeSchedule(self.fleet, self.scheduler, config)
        if probe_every_s is None:
            self.standby.boot()
        else:
            self.scheduler.spawn(SimProcess("EventBridge Scheduler"), lambda: self.schedule.run(probe_every_s))
        self.scheduler.spawn(SimProcess("ClearML watchdog"), self._watchdog)

    def submit(self, queue: QueueName, duration_s: float) -> TaskId:
        """Somebody enqueues a task that will run for so long."""
        task_id = self.server.create_task()
        self.workload.set(task_id, duration_s)
        self.server.enqueue(task_id, queue)
        return task_id

    def run_until(self, monotonic: float) -> None:
        """Let the world live until this moment of its monotonic clock."""
        while (due := self._next_due()) is not None and due <= monotonic:
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            self.store.tick()
            self._follow_ec2()
            if (own := self.scheduler.next_due()) is not None and own <= self.clock.monotonic():
                self.scheduler.run_one()
                self._follow_ec2()
            for watch in self.watchers:
                watch(self)
        self.clock.advance(max(0.0, monotonic - self.clock.monotonic()))

    def close(self) -> None:
        self.scheduler.close()

    def renewing(self, renew: Callable[[], None], every_s: float) -> Callable[[], None]:
        """The body of a renewal's thread: on its interval, sooner after a failure, as ``coordination.renewal`` does it."""

        def body() -> None:
            while True:
                self.scheduler.sleep(every_s)
                try:
                    renew()
                except StoreError:
                    self.scheduler.sleep(every_s / 4)

        return body

    @property
    def minimum_instances(self) -> int:
        """How many instances stay when there is nothing to do."""
        return sum(pool.min_instances for pool in self.policy.pools)

    def duration_s(self, task_id: TaskId) -> float:
        """How long the task runs once it is started."""
        return self.workload.duration_s(task_id)

    def note(self, what: str) -> None:
        self.notes.append(f"{self.clock.monotonic():9.2f} s  {what}")

    def about_to_shut_down(self, machine: SimMachine) -> None:
        """A machine that decided to end is about to stop its processes: the moment at which a task would be killed."""
        if machine.busy:
            self._break(f"Retiring {machine.identity.instance_id} ended a task that it held.")

    def task_begins(self, task_id: TaskId, on: InstanceId) -> None:
        """A process of the task starts on a machine."""
        self.note(f"{on} runs task {task_id}")
        if task_id in self._running:
            self._break(f"Twice: task {task_id} runs on {on} and still on {self._running[task_id][0]}.")
        self._running[task_id] = (on, self.clock.monotonic())

    def task_ends(self, task_id: TaskId) -> None:
        """The task's process is gone, whatever became of it."""
        self._running.pop(task_id, None)

    def _break(self, promise: str) -> None:
        self.note(f"BROKEN {promise}")
        self.broken.append(f"{promise[:-1]}, at {self.clock.monotonic():.1f} s.")

    def living_instances(self) -> list[InstanceId]:
        return [instance_id for instance_id, machine in self.machines.items() if machine.on]

    def _next_due(self) -> float | None:
        due = self.scheduler.next_due()
        expiry = self.store.next_expiry()
        if expiry is not None and (due is None or expiry < due):
            due = expiry
        ec2 = self.fleet.next_change_at()
        if ec2 is not None and (due is None or ec2 - self.epoch < due):
            due = ec2 - self.epoch
        return due

    def _follow_ec2(self) -> None:
        if self.fleet.quiet:
            return
        for change in self.fleet.take_changes():
            self.note(f"EC2: {change.instance_id} is {change.state.value} {change.reason}".rstrip())
            if change.state is InstanceState.RUNNING:
                self._boot(change.instance_id)
            elif change.state.ending:
                machine = self.machines.get(change.instance_id)
                if machine is not None and machine.on:
                    if change.reason == "TerminateInstances":
                        self._check_terminated(machine)
                    machine.power_off()

    def _check_terminated(self, machine: SimMachine) -> None:
        """Only our own code terminates instances in this world, and never one whose task was known to run."""
        for task_id, (on, since) in self._running.items():
            if on == machine.identity.instance_id and self.clock.monotonic() - since > JUST_STARTED_S:
                self._break(f"Terminating {on} killed task {task_id}.")
                return

    def _boot(self, instance_id: InstanceId) -> None:
        request = self.fleet.request_of(instance_id)
        pool = self.policy.pool(request.pool)
        identity = NodeIdentity(
            request.cluster,
            instance_id,
            NodeRole.WORKER if request.pool else NodeRole.PROBE,
            request.pool or None,
            request.instance_type,
            request.market,
            request.zone or "",
            request.launch_id,
        )
        slots = pool.slots_per_node if pool else int(identity.role is NodeRole.WORKER)
        machine = self.machines[instance_id] = SimMachine(self, identity, slots)
        machine.boot()

    def _watchdog(self) -> None:
        while True:
            self.scheduler.sleep(WATCHDOG_ROUND_S)
            self.server.run_watchdog()
