"""What the adversary can do to a simulated world, as data: a list of faults is a scenario that replays exactly.

``pick`` (0 to 1) chooses the target among those that exist when the fault strikes, so that a fault means the same when others
before it are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, TypeVar

from scaler_plugin.clearml_server.memory_client import Fault as ClearmlFault
from scaler_plugin.cloud.memory_faults import Failure, Shortage
from scaler_plugin.coordination.memory_store import Cut
from scaler_plugin.coordination.published_config import push_config
from scaler_plugin.coordination.requests import request
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.requests import DrainRequest, ProtectRequest
from scaler_plugin.errors import StoreError

if TYPE_CHECKING:
    from scaler_plugin.simulation.machine import SimMachine
    from scaler_plugin.simulation.world import World

T = TypeVar("T")


class Kind(str, Enum):
    KILL_SIDECAR = "kill -9 of a sidecar"
    KILL_LEADER = "kill -9 of the leader's sidecar"
    KILL_AGENT = "kill -9 of an agent"
    POWER_OFF = "an instance is gone at once"
    PAUSE_SIDECAR = "a sidecar stands still"
    PAUSE_LEADER = "the leader's sidecar stands still"
    PAUSE_AGENT = "an agent stands still"
    PAUSE_MACHINE = "a machine stands still"
    CUT_ETCD = "a machine is cut off from etcd"
    CUT_ETCD_ANSWERS = "a machine gets no answers from etcd"
    CUT_LEADER_ETCD = "the leader is cut off from etcd"
    CUT_CLEARML = "a machine is cut off from ClearML"
    CUT_CLEARML_ANSWERS = "a machine gets no answers from ClearML"
    CUT_EC2 = "a machine is cut off from EC2"
    CUT_ALL = "a machine is cut off from everything"
    ETCD_DOWN = "etcd does not answer"
    ETCD_WIPED = "etcd is set up anew"
    CLEARML_DOWN = "ClearML does not answer"
    EC2_DOWN = "EC2 does not answer"
    EC2_LOST_ANSWERS = "EC2 does the work and its answers are lost"
    EC2_THROTTLES = "EC2 throttles"
    EC2_NO_CAPACITY = "EC2 has no capacity"
    EC2_STALE = "EC2's listings lag behind"
    CLOCK_JUMP = "a machine's wall clock jumps"
    STUCK_SHUTDOWN = "a machine's shutdown does nothing"
    SPOT_NOTICE = "EC2 announces that it takes an instance"
    SPOT_NOTICE_SHORT = "EC2 announces that it takes an instance, and takes it at once"
    REBALANCE = "EC2 recommends to leave an instance"
    DRAIN = "somebody drains a node"
    PROTECT = "somebody protects a node"


@dataclass(frozen=True)
class Fault:
    at_s: float
    kind: Kind
    pick: float
    length_s: float

    def __str__(self) -> str:
        return f"{self.at_s:7.1f} s  {self.kind.value} (pick {self.pick:.3f}, {self.length_s:.1f} s)"


def random_faults(rng: Random, until_s: float, number: int, kinds: tuple[Kind, ...] = tuple(Kind)) -> tuple[Fault, ...]:
    """So many faults, spread over the time; lengths from a blink to longer than any lease, but shorter than ``lost_after``."""
    return tuple(
        sorted(
            (
                Fault(rng.uniform(0, until_s), rng.choice(kinds), rng.random(), min(900.0, rng.expovariate(1 / 60)))
                for _ in range(number)
            ),
            key=lambda fault: fault.at_s,
        )
    )


def schedule(world: World, faults: tuple[Fault, ...]) -> None:
    """Put the faults on the world's schedule."""
    for fault in faults:
        world.scheduler.call_later(fault.at_s, _striking(world, fault))


def _striking(world: World, fault: Fault) -> Callable[[], None]:
    def strike() -> None:
        target = _EFFECTS[fault.kind](world, fault)
        world.note(f"FAULT {fault.kind.value}{f': {target}' if target else ''} ({fault.length_s:.1f} s)")

    return strike


def _chosen(fault: Fault, among: list[T]) -> T | None:
    return among[min(len(among) - 1, int(fault.pick * len(among)))] if among else None


def _machine(world: World, fault: Fault) -> SimMachine | None:
    return _chosen(fault, [world.standby, *(m for m in world.machines.values() if m.on)])


def _worker(world: World, fault: Fault) -> SimMachine | None:
    return _chosen(fault, [machine for machine in world.machines.values() if machine.on])


def _leader(world: World) -> SimMachine | None:
    return next((m for m in (world.standby, *world.machines.values()) if m.on and m.leads), None)


def _name(machine: SimMachine) -> str:
    return machine.identity.instance_id


def _kill_sidecar(world: World, fault: Fault) -> str | None:
    machine = _machine(world, fault)
    if machine is None:
        return None
    machine.kill_sidecar()
    return _name(machine)


def _kill_leader(world: World, _fault: Fault) -> str | None:
    machine = _leader(world)
    if machine is None:
        return None
    machine.kill_sidecar()
    return _name(machine)


def _kill_agent(world: World, fault: Fault) -> str | None:
    machine = _worker(world, fault)
    if machine is None or not machine.agents:
        return None
    slot = int(fault.pick * 1000) % len(machine.agents)
    machine.kill_agent(slot)
    return f"{_name(machine)} slot {slot}"


def _power_off(world: World, fault: Fault) -> str | None:
    machine = _worker(world, fault)
    if machine is None:
        return None
    world.fleet.interrupt(machine.identity.instance_id)
    return _name(machine)


def _pause_sidecar(world: World, fault: Fault) -> str | None:
    machine = _machine(world, fault)
    return _paused_sidecar(world, machine, fault)


def _pause_leader(world: World, fault: Fault) -> str | None:
    return _paused_sidecar(world, _leader(world), fault)


def _paused_sidecar(world: World, machine: SimMachine | None, fault: Fault) -> str | None:
    if machine is None:
        return None
    machine.sidecar_process.paused_until = world.clock.monotonic() + fault.length_s
    return _name(machine)


def _pause_agent(world: World, fault: Fault) -> str | None:
    machine = _worker(world, fault)
    if machine is None or not machine.agents:
        return None
    agent = machine.agents[int(fault.pick * 1000) % len(machine.agents)]
    agent.process.paused_until = world.clock.monotonic() + fault.length_s
    return agent.process.name


def _pause_machine(world: World, fault: Fault) -> str | None:
    machine = _machine(world, fault)
    if machine is None:
        return None
    machine.pause(world.clock.monotonic() + fault.length_s)
    return _name(machine)


def _cut(etcd: Cut | None = None, clearml: ClearmlFault | None = None, ec2: bool = False) -> Effect:
    def effect(world: World, fault: Fault) -> str | None:
        return _cut_off(world, _machine(world, fault), fault.length_s, etcd, clearml, ec2)

    return effect


def _cut_leader(world: World, fault: Fault) -> str | None:
    return _cut_off(world, _leader(world), fault.length_s, Cut.BEFORE_EFFECT, None, False)


def _cut_off(
    world: World,
    machine: SimMachine | None,
    length_s: float,
    etcd: Cut | None,
    clearml: ClearmlFault | None,
    ec2: bool,
) -> str | None:
    if machine is None:
        return None
    if etcd is not None:
        machine.store_client.partition(etcd)
        world.scheduler.call_later(length_s, machine.store_client.heal)
    if clearml is not None:
        machine.server.fault = clearml
        world.scheduler.call_later(length_s, lambda: setattr(machine.server, "fault", ClearmlFault.NONE))
    if ec2:
        machine.fleet.cut = True
        world.scheduler.call_later(length_s, lambda: setattr(machine.fleet, "cut", False))
    return _name(machine)


def _etcd_down(world: World, fault: Fault) -> None:
    world.store.stop()
    world.scheduler.call_later(fault.length_s, world.store.start)


def _etcd_wiped(world: World, fault: Fault) -> None:
    world.store.wipe()

    # Somebody notices and pushes the configuration again.
    def push() -> None:
        try:
            push_config(world.store.client("people"), world.keys, world.config)
        except StoreError:
            world.scheduler.call_later(60.0, push)

    world.scheduler.call_later(60 + fault.length_s, push)


def _clearml_down(world: World, fault: Fault) -> None:
    for machine in (world.standby, *world.machines.values()):
        if machine.on:
            _cut_off(world, machine, fault.length_s, None, ClearmlFault.UNAVAILABLE_BEFORE, False)


def _ec2_fails(failure: Failure) -> Effect:
    def effect(world: World, fault: Fault) -> None:
        world.fleet.faults.fail_all(failure)
        world.scheduler.call_later(fault.length_s, lambda: world.fleet.faults.fail_all(None))

    return effect


def _ec2_loses_answers(world: World, fault: Fault) -> None:
    world.fleet.faults.fail_next("run_instances", Failure.LOST_ANSWER, 1 + int(fault.pick * 4))


def _ec2_no_capacity(world: World, fault: Fault) -> None:
    shortage = Shortage(available=int(fault.pick * 2))
    world.fleet.faults.shortages.append(shortage)
    world.scheduler.call_later(fault.length_s, lambda: world.fleet.faults.shortages.remove(shortage))


def _ec2_stale(world: World, fault: Fault) -> None:
    # "Typically a few seconds": AWS gives no bound; ours holds up to LISTING_LAG_S.
    world.fleet.faults.listing_lag_s = fault.pick * 20
    world.scheduler.call_later(fault.length_s, lambda: setattr(world.fleet.faults, "listing_lag_s", 0.0))


def _clock_jump(world: World, fault: Fault) -> str | None:
    machine = _machine(world, fault)
    if machine is None:
        return None
    machine.clock.skew_s += (fault.pick - 0.5) * 2 * fault.length_s
    return _name(machine)


def _stuck_shutdown(world: World, fault: Fault) -> str | None:
    machine = _worker(world, fault)
    if machine is None:
        return None
    machine.host.stuck = True
    return _name(machine)


def _spot_notice(world: World, fault: Fault) -> str | None:
    machine = _worker(world, fault)
    if machine is None:
        return None
    machine.announce_interruption(notice_s=120.0)
    return _name(machine)


def _short_spot_notice(world: World, fault: Fault) -> str | None:
    machine = _worker(world, fault)
    if machine is None:
        return None
    machine.announce_interruption(notice_s=min(fault.length_s, 30.0))
    return _name(machine)


def _rebalance(world: World, fault: Fault) -> str | None:
    machine = _worker(world, fault)
    if machine is None:
        return None
    machine.announce_rebalance()
    return _name(machine)


def _drain(world: World, fault: Fault) -> str | None:
    machine = _worker(world, fault)
    if machine is None:
        return None
    asked = DrainRequest(machine.identity.instance_id, world.clock.now(), "the adversary")
    _as_person(world, lambda store: request(store, world.keys, asked))
    return _name(machine)


def _protect(world: World, fault: Fault) -> str | None:
    machine = _worker(world, fault)
    if machine is None:
        return None
    now = world.clock.now()
    asked = ProtectRequest(machine.identity.instance_id, now, now + fault.length_s, by="the adversary")
    _as_person(world, lambda store: request(store, world.keys, asked))
    return _name(machine)


def _as_person(world: World, act: Callable[[Store], object]) -> None:
    """Somebody tries; while etcd does not answer nothing comes of it."""
    with suppress(StoreError):
        act(world.store.client("people"))


Effect = Callable[["World", Fault], "str | None"]
_EFFECTS: Mapping[Kind, Effect] = {
    Kind.KILL_SIDECAR: _kill_sidecar,
    Kind.KILL_LEADER: _kill_leader,
    Kind.KILL_AGENT: _kill_agent,
    Kind.POWER_OFF: _power_off,
    Kind.PAUSE_SIDECAR: _pause_sidecar,
    Kind.PAUSE_LEADER: _pause_leader,
    Kind.PAUSE_AGENT: _pause_agent,
    Kind.PAUSE_MACHINE: _pause_machine,
    Kind.CUT_ETCD: _cut(etcd=Cut.BEFORE_EFFECT),
    Kind.CUT_ETCD_ANSWERS: _cut(etcd=Cut.AFTER_EFFECT),
    Kind.CUT_LEADER_ETCD: _cut_leader,
    Kind.CUT_CLEARML: _cut(clearml=ClearmlFault.UNAVAILABLE_BEFORE),
    Kind.CUT_CLEARML_ANSWERS: _cut(clearml=ClearmlFault.UNAVAILABLE_AFTER),
    Kind.CUT_EC2: _cut(ec2=True),
    Kind.CUT_ALL: _cut(etcd=Cut.BEFORE_EFFECT, clearml=ClearmlFault.UNAVAILABLE_BEFORE, ec2=True),
    Kind.ETCD_DOWN: _etcd_down,
    Kind.ETCD_WIPED: _etcd_wiped,
    Kind.CLEARML_DOWN: _clearml_down,
    Kind.EC2_DOWN: _ec2_fails(Failure.LOST_REQUEST),
    Kind.EC2_LOST_ANSWERS: _ec2_loses_answers,
    Kind.EC2_THROTTLES: _ec2_fails(Failure.THROTTLED),
    Kind.EC2_NO_CAPACITY: _ec2_no_capacity,
    Kind.EC2_STALE: _ec2_stale,
    Kind.CLOCK_JUMP: _clock_jump,
    Kind.STUCK_SHUTDOWN: _stuck_shutdown,
    Kind.SPOT_NOTICE: _spot_notice,
    Kind.SPOT_NOTICE_SHORT: _short_spot_notice,
    Kind.REBALANCE: _rebalance,
    Kind.DRAIN: _drain,
    Kind.PROTECT: _protect,
}
