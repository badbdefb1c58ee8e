"""What must hold in every simulated world, at every step and at the end. Each check raises with the sentence of what broke.

The checks look at the servers' own truth (EC2's instances, ClearML's tasks, etcd's keys) and at what runs on the machines, never at
what our code believes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scaler_plugin.clearml_server.memory_task import MemoryTask
from scaler_plugin.coordination.codec import decode
from scaler_plugin.coordination.election import leader_record
from scaler_plugin.coordination.store import Comparison, CreatedAt, Put, Write
from scaler_plugin.core.model import InstanceId, Node, NodeState, QueueName, TaskStatus

if TYPE_CHECKING:
    from scaler_plugin.simulation.world import World


class InvariantBroken(AssertionError):
    """A promise was broken; the message says which, by whom and when."""


class Watch:
    """The checks of every step, and what they remember.

    ``longest_wait_s`` is how long a task may wait while its pools have room; without it nobody's patience is checked, as faults
    may keep anything waiting for a while.
    """

    def __init__(self, world: World, longest_wait_s: float | None = None) -> None:
        self._world = world
        self._longest_wait_s = longest_wait_s
        self._room_since: dict[QueueName, float] = {}
        self._writers: dict[
            tuple[int, int], str
        ] = {}  # by term, and by which etcd: one set up anew counts from the start
        self._launched = 0
        world.on_write = self._wrote

    def check(self, world: World) -> None:
        """What must hold at every moment."""
        if world.broken:
            raise InvariantBroken(world.broken[0])
        if world.fleet.launched != self._launched:
            self._launched = world.fleet.launched
            self._check_maxima(world)
            self._check_launches(world)

    def check_waiting(self) -> None:
        """No task waits for long in a queue one of whose pools could have one more instance; called once a minute."""
        if self._longest_wait_s is None:
            return
        world, now = self._world, self._world.clock.monotonic()
        living = world.fleet.living_by_pool()
        room_in_cluster = sum(living.values()) < world.policy.max_instances
        for queue, backlog in world.server.backlogs(world.policy.queues).items():
            pools = [pool for pool in world.policy.pools if queue in pool.queues]
            if not room_in_cluster or all(living.get(pool.name, 0) >= pool.max_instances for pool in pools):
                self._room_since.pop(queue, None)
                continue
            since = max(
                self._room_since.setdefault(queue, now), (backlog.oldest_since or world.clock.now()) - world.epoch
            )
            if len(backlog) and now - since > self._longest_wait_s:
                raise InvariantBroken(
                    f"Waiting: {len(backlog)} tasks in {queue}, the oldest for {now - since:.0f} s with room for an instance, "
                    f"at {now:.1f} s."
                )

    def at_rest(self) -> bool:
        """Whether every task is done and every instance beyond the minimum has ended: nothing more will happen."""
        world = self._world
        done = all(task.status in (TaskStatus.COMPLETED, TaskStatus.FAILED) for task in world.server.tasks())
        return done and len(world.living_instances()) <= world.minimum_instances

    def _wrote(self, machine: InstanceId, compare: Sequence[Comparison], writes: Sequence[Write]) -> None:
        """What must hold of a transaction at the moment at which it was made, by what etcd holds then."""
        keys = self._world.keys
        for one in compare:
            if isinstance(one, CreatedAt) and one.key == keys.leader and one.revision:
                self._check_term(machine, one.revision)
        leaders_only = (keys.launches, keys.view, keys.cooldowns, keys.condemned(InstanceId("")))
        for write in writes:
            if write.key.startswith(leaders_only):
                self._check_leads(machine, write.key)
            elif isinstance(write, Put) and write.key == keys.node(machine):
                self._check_minimum(machine, write)

    def _check_term(self, machine: InstanceId, term: int) -> None:
        writer = self._writers.setdefault((self._world.store.wiped, term), machine)
        if writer != machine:
            raise InvariantBroken(f"Term {term} of {writer} also carried a write of {machine}.")

    def _check_leads(self, machine: InstanceId, key: str) -> None:
        entry = self._world.store.read_key(self._world.keys.leader)
        leader = leader_record(entry).candidate if entry else "nobody"
        if leader != machine:
            raise InvariantBroken(f"Fence: {machine} wrote {key} while {leader} led.")

    def _check_minimum(self, machine: InstanceId, put: Put) -> None:
        """A node that retires because it is idle leaves its pool's minimum behind."""
        node = decode(Node, put.value)
        pool = self._world.policy.pool(node.pool)
        if node.state is not NodeState.RETIRING or pool is None or not node.reason.startswith("Idle"):
            return
        others = [decode(Node, entry.value) for entry in self._world.store.read(self._world.keys.nodes)]
        up = sum(1 for other in others if other.pool == node.pool and other.state is NodeState.UP)
        if up < pool.min_instances:
            raise InvariantBroken(f"Minimum: {machine} retired and left {up} nodes in pool {pool.name}.")

    def _check_maxima(self, world: World) -> None:
        living = world.fleet.living_by_pool()
        for pool in world.policy.pools:
            if living.get(pool.name, 0) > pool.max_instances:
                raise InvariantBroken(
                    f"Pool {pool.name} has {living[pool.name]} instances and may have {pool.max_instances}, "
                    f"at {world.clock.monotonic():.1f} s."
                )
        workers = sum(number for pool, number in living.items() if pool)
        if workers > world.policy.max_instances:
            raise InvariantBroken(
                f"Cluster has {workers} instances and may have {world.policy.max_instances}, "
                f"at {world.clock.monotonic():.1f} s."
            )

    def _check_launches(self, world: World) -> None:
        for launch_id, (started, asked) in world.fleet.launches.items():
            if started > asked:
                raise InvariantBroken(f"Launch {launch_id} asked for {asked} instances and became {started}.")


def check_end(world: World) -> None:
    """What must hold when arrivals and faults have stopped for long enough: every task done, and nothing left running."""
    unfinished = [
        task
        for task in world.server.tasks()
        if task.status is not TaskStatus.COMPLETED and not _given_up(task, world.policy.max_requeues)
    ]
    if unfinished:
        first = unfinished[0]
        raise InvariantBroken(
            f"Tasks: {len(unfinished)} of {len(world.server.tasks())} are not done; the first is {first.task_id}, "
            f"{first.status.value}, history {[(round(c.at - world.epoch), c.status.value, c.by) for c in first.history]}."
        )
    left = world.living_instances()
    if len(left) > world.minimum_instances:
        raise InvariantBroken(
            f"Instances: {len(left)} are left and {world.minimum_instances} are needed, the first is {left[0]}."
        )


def _given_up(task: MemoryTask, max_requeues: int) -> bool:
    """Failed after it was put back as often as is allowed, by the server's own history (the first time it was a person)."""
    put_back = sum(1 for change in task.history if change.status is TaskStatus.QUEUED) - 1
    return task.status is TaskStatus.FAILED and put_back >= max_requeues
