"""What must hold in every simulated world, at every step and at the end. Each check raises with the sentence of what broke.

The checks look at the servers' own truth (EC2's instances, ClearML's tasks, etcd's keys), never at what our code believes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from scaler_plugin.clearml_server.memory_task import TaskStatus

if TYPE_CHECKING:
    from scaler_plugin.simulation.world import World


class InvariantBroken(AssertionError):
    """A promise was broken; the message says which, by whom and when."""


def check_step(world: World) -> None:
    """What must hold at every moment. Cheap: it looks only at what just changed as far as it can."""
    _check_maxima(world)
    if world.killed_by_retiring:
        instance_id, at = world.killed_by_retiring[0]
        raise InvariantBroken(f"{instance_id} ended itself at {at:.1f} s while it held a task.")


def _check_maxima(world: World) -> None:
    living = world.fleet.living_by_pool()
    for pool in world.policy.pools:
        if living.get(pool.name, 0) > pool.max_instances:
            raise InvariantBroken(
                f"Pool {pool.name} has {living[pool.name]} instances and may have {pool.max_instances}, "
                f"at {world.clock.monotonic():.1f} s."
            )
    if sum(living.values()) > world.policy.max_instances:
        raise InvariantBroken(
            f"The cluster has {sum(living.values())} instances and may have {world.policy.max_instances}, "
            f"at {world.clock.monotonic():.1f} s."
        )


def check_end(world: World) -> None:
    """What must hold when arrivals have stopped for long enough: every task done, once, and nothing left running."""
    statuses = Counter(task.status for task in world.server.tasks())
    unfinished = [task for task in world.server.tasks() if task.status is not TaskStatus.COMPLETED]
    if unfinished:
        first = unfinished[0]
        raise InvariantBroken(
            f"{len(unfinished)} of {sum(statuses.values())} tasks are not completed; the first is {first.task_id}, "
            f"{first.status.value}, history {[(round(c.at), c.status.value, c.by) for c in first.history]}."
        )
    for task in world.server.tasks():
        starts = sum(1 for change in task.history if change.status is TaskStatus.IN_PROGRESS)
        if starts != 1:
            raise InvariantBroken(f"Task {task.task_id} was started {starts} times.")
    left = world.living_instances()
    if left:
        raise InvariantBroken(f"{len(left)} instances are left, the first is {left[0]}.")
    for prefix in (world.keys.launches, world.keys.nodes):
        keys = [entry.key for entry in world.store.read(prefix) if "standby" not in entry.key]
        if keys:
            raise InvariantBroken(f"{len(keys)} records are left in etcd, the first is {keys[0]}.")
