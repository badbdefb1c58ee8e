"""Connections that take time: while one process waits for an answer, all others go on.

Each call is two waits with the effect between them, so a process can be killed, paused or overtaken before the effect of its
call or after it. This is what makes every step of every process a possible place for a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scaler_plugin.clearml_server.memory_client import MemoryTaskClient
from scaler_plugin.cloud.memory_fleet import MemoryFleet
from scaler_plugin.coordination.memory_store import MemoryClient
from scaler_plugin.coordination.store import Comparison, Entry, LeaseId, Transaction, Watch, Write
from scaler_plugin.core.model import Instance, InstanceId, LaunchId, LaunchRequest
from scaler_plugin.errors import CloudUnavailable
from scaler_plugin.simulation.scheduler import Scheduler, SimProcess

Answer = TypeVar("Answer")


@dataclass
class Network:
    """How long calls take: ``wait`` sleeps for one way of a call; without a scheduler's thread nothing takes time."""

    scheduler: Scheduler
    one_way_s: Callable[[], float]

    def call(self, effect: Callable[[], Answer]) -> Answer:
        self._wait()
        try:
            return effect()
        finally:
            self._wait()

    def _wait(self) -> None:
        if self.scheduler.in_thread:
            self.scheduler.sleep(self.one_way_s())


class SlowStore:
    """:class:`~scaler_plugin.coordination.store.Store` over a network; ``on_write`` hears of every transaction that was made."""

    def __init__(
        self,
        client: MemoryClient,
        network: Network,
        on_write: Callable[[Sequence[Comparison], Sequence[Write]], None] = lambda _compare, _writes: None,
    ) -> None:
        self._client = client
        self._network = network
        self._on_write = on_write

    def get(self, key: str) -> Entry | None:
        return self._network.call(lambda: self._client.get(key))

    def get_prefix(self, prefix: str) -> tuple[Entry, ...]:
        return self._network.call(lambda: self._client.get_prefix(prefix))

    def transact(self, compare: Sequence[Comparison], writes: Sequence[Write]) -> Transaction:
        def effect() -> Transaction:
            answer = self._client.transact(compare, writes)
            if answer.succeeded:
                self._on_write(compare, writes)
            return answer

        return self._network.call(effect)

    def grant_lease(self, ttl_s: int) -> LeaseId:
        return self._network.call(lambda: self._client.grant_lease(ttl_s))

    def keep_alive(self, lease: LeaseId) -> None:
        self._network.call(lambda: self._client.keep_alive(lease))

    def revoke_lease(self, lease: LeaseId) -> None:
        self._network.call(lambda: self._client.revoke_lease(lease))

    def watch(self, prefix: str, on_change: Callable[[], None]) -> Watch:
        return self._client.watch(prefix, on_change)

    def close(self) -> None:
        self._client.close()


class SimFleet:
    """EC2 as one machine reaches it; while ``cut`` it does not answer."""

    def __init__(self, fleet: MemoryFleet, network: Network) -> None:
        self.cut = False
        self._fleet = fleet
        self._network = network

    def run_instances(self, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        return self._call(lambda: self._fleet.run_instances(request, token))

    def instances(self) -> tuple[Instance, ...]:
        return self._call(self._fleet.instances)

    def instances_of(self, launch_id: LaunchId) -> tuple[Instance, ...]:
        return self._call(lambda: self._fleet.instances_of(launch_id))

    def terminate(self, instance_ids: Sequence[InstanceId]) -> None:
        self._call(lambda: self._fleet.terminate(instance_ids))

    def console_output(self, instance_id: InstanceId) -> str:
        return self._call(lambda: self._fleet.console_output(instance_id))

    def _call(self, effect: Callable[[], Answer]) -> Answer:
        def reached() -> Answer:
            if self.cut:
                raise CloudUnavailable("EC2 does not answer this machine.", "ConnectTimeoutError")
            return effect()

        return self._network.call(reached)


class SlowTaskClient(MemoryTaskClient):
    """The ClearML server over a network."""

    network: Network | None = None

    def _call(self, act: Callable[[], Answer]) -> Answer:
        if self.network is None:
            return super()._call(act)
        call = super()._call
        return self.network.call(lambda: call(act))


class SimLock:
    """A lock whose waiter sleeps on the virtual clock. A process that is killed holds none any more."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._holder: SimProcess | None = None

    def acquire(self, blocking: bool = True) -> bool:
        while self._holder is not None and self._holder.alive:
            if not blocking or not self._scheduler.in_thread:
                return False
            self._scheduler.sleep(0.01)
        self._holder = self._scheduler.process or SimProcess("the world")
        return True

    def release(self) -> None:
        self._holder = None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_exc: object) -> None:
        self.release()
