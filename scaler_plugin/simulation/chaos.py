"""Seeded fault injection: hours of arrivals while an adversary strikes, with the invariants checked at every step and at the end.

A seed decides arrivals, faults and every latency, so it replays exactly. A seed that fails is shrunk: faults that are not
needed for the failure are left out, and the history that remains is printed.

Run ``python -m scaler_plugin.simulation.chaos --seeds 300``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from random import Random

import structlog

from scaler_plugin.config.load import parse_yaml
from scaler_plugin.core.model import QueueName
from scaler_plugin.simulation.faults import Fault, Kind, random_faults, schedule
from scaler_plugin.simulation.invariants import InvariantBroken, Watch, check_end
from scaler_plugin.simulation.workload import Arrival, bursts
from scaler_plugin.simulation.world import World

CONFIG = """
cluster: chaos
max_instances: 14
poll_interval: 5s
leader_ttl: 10s
pools:
  - name: cpu
    queues: [urgent, cpu-tasks]
    instance_types: [c5.large, c5a.large]
    ami: ami-1234
    max_instances: 9
    idle_timeout: 90s
    startup_timeout: 4m
  - name: gpu
    queues: [gpu-tasks, urgent]
    instance_types: [g5.xlarge]
    ami: ami-1234
    market: spot
    max_instances: 7
    min_instances: 1
    slots_per_node: 2
    idle_timeout: 60s
    startup_timeout: 4m
"""
QUEUES = (QueueName("urgent"), QueueName("cpu-tasks"), QueueName("gpu-tasks"))

#: Arrivals and faults last for this long …
ACTIVE_S = 2 * 3600.0
#: … and then everything must be done and gone within this: the longest cut, lost_after, and three runs of the longest task.
SETTLE_S = 4 * 3600.0
FAULTS_PER_RUN = 24
#: One seed in so many runs on a slow network and with tasks of one length, so that nodes decide at the same time.
SLOW_EVERY = 4
TASK_S = 240.0


#: In one seed of so many nothing fails and nodes are only asked to leave or to stay: there nobody waits for long.
CALM_EVERY = 5
#: … longer than a launch and a boot on the slow network, while its pools have room.
LONGEST_WAIT_S = 300.0
CALM = (Kind.DRAIN, Kind.PROTECT, Kind.REBALANCE)


@dataclass(frozen=True)
class Outcome:
    """``broken`` is the sentence of the invariant that did not hold; ``history`` the world's notes up to it."""

    seed: int
    broken: str | None
    history: tuple[str, ...]
    faults: tuple[Fault, ...]
    tasks: int
    launched: int
    rescued: int


def faults_of(seed: int) -> tuple[Fault, ...]:
    kinds = CALM if seed % CALM_EVERY == 0 else tuple(Kind)
    return random_faults(Random(f"faults {seed}"), ACTIVE_S, FAULTS_PER_RUN, kinds)


def run(seed: int, faults: tuple[Fault, ...]) -> Outcome:
    """One world from start to rest."""
    slow = seed % SLOW_EVERY == 0
    world = World(
        parse_yaml(CONFIG, "the chaos configuration"),
        seed,
        boot_s=40.0,
        step_s=5.0,
        node_ttl_s=30,
        agent_poll_s=5.0,
        one_way_s=_slow_latency if slow else _latency,
        power_off_s=_power_off,
    )
    watch = Watch(world, longest_wait_s=LONGEST_WAIT_S if seed % CALM_EVERY == 0 else None)
    world.watchers.append(watch.check)
    for arrival in bursts(Random(f"arrivals {seed}"), QUEUES, ACTIVE_S, per_hour=50, mean_duration_s=TASK_S):
        world.scheduler.call_later(arrival.at_s, partial(world.submit, arrival.queue, _duration(arrival, slow)))
    schedule(world, faults)
    broken = None
    try:
        while world.clock.monotonic() < ACTIVE_S or (
            world.clock.monotonic() < ACTIVE_S + SETTLE_S and not watch.at_rest()
        ):
            world.run_until(world.clock.monotonic() + 60.0)
            watch.check_waiting()
        check_end(world)
    except InvariantBroken as error:
        broken = str(error)
    finally:
        world.close()
    tasks = world.server.tasks()
    return Outcome(
        seed,
        broken,
        tuple(world.notes),
        faults,
        len(tasks),
        world.fleet.launched,
        sum(task.requeues for task in tasks),
    )


def shrink(outcome: Outcome) -> Outcome:
    """Leave out every fault without which the same seed still breaks the same kind of promise."""
    kind = (outcome.broken or "").split(" ")[0]
    smallest = outcome
    for fault in outcome.faults:
        fewer = tuple(other for other in smallest.faults if other is not fault)
        again = run(outcome.seed, fewer)
        if again.broken is not None and again.broken.split(" ")[0] == kind:
            smallest = again
    return smallest


def _latency(rng: Random) -> float:
    """Milliseconds as a rule, now and then a second or more, so that calls overtake each other."""
    return rng.expovariate(1 / 0.01) if rng.random() < 0.98 else rng.uniform(0.0, 3.0)


def _duration(arrival: Arrival, slow: bool) -> float:
    return TASK_S if slow else min(1500.0, arrival.duration_s)


def _slow_latency(rng: Random) -> float:
    """A bad network: what two nodes do at the same time overlaps for seconds."""
    return rng.expovariate(1 / 0.3)


def _power_off(rng: Random) -> float:
    """Unmounting takes seconds; one system in five waits for a unit up to systemd's stop timeout."""
    return rng.uniform(1.0, 10.0) if rng.random() < 0.8 else rng.uniform(10.0, 85.0)


def _run_seed(seed: int) -> Outcome:
    silence_logs()
    return run(seed, faults_of(seed))


def silence_logs() -> None:
    """What the services log about faults is what they should; the world keeps notes of its own."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def report(outcomes: Sequence[Outcome], seconds: float) -> str:
    """What was run, and what was found, as lines for a person."""
    kinds = Counter(fault.kind.value for outcome in outcomes for fault in outcome.faults)
    lines = [
        f"{len(outcomes)} seeds, {sum(kinds.values())} faults, {sum(o.tasks for o in outcomes)} tasks, "
        f"{sum(o.launched for o in outcomes)} instances, {sum(o.rescued for o in outcomes)} rescues, {seconds:.0f} s",
        *(f"  {number:6d}  {kind}" for kind, number in kinds.most_common()),
    ]
    for outcome in outcomes:
        if outcome.broken:
            lines.append(f"seed {outcome.seed} FAILED: {outcome.broken}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scaler_plugin.simulation.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many worlds")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=None, help="how many at a time (default: one per core)")
    parser.add_argument("--keep-going", action="store_true", help="do not shrink the first failing seed")
    options = parser.parse_args(arguments)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    began = time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        outcomes = list(pool.map(_run_seed, seeds, chunksize=1))
    print(report(outcomes, time.monotonic() - began))
    failed = [outcome for outcome in outcomes if outcome.broken]
    if failed and not options.keep_going:
        silence_logs()
        smallest = shrink(failed[0])
        print(f"\nSeed {smallest.seed}, shrunk to {len(smallest.faults)} faults: {smallest.broken}\n")
        for line in smallest.history:
            print(line)
        print(f"\nReplay: python -m scaler_plugin.simulation.chaos --seeds 1 --first-seed {smallest.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
