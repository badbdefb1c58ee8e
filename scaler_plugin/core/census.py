"""Counting the fleet: what exists (it counts against a maximum) and what is supply (it will take a waiting task soon).

The two differ on purpose. *Exists* is the union of what EC2 lists, launch records hold and nodes report, so that no maximum is
ever exceeded. *Supply* leaves out whatever will not pull again: nodes that drain, are interrupted or retire, agents
that stay down, instances that are late. Counting a draining node as supply makes tasks wait for hours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from scaler_plugin.core.model import Instance, Launch, Node, NodeRole, NodeState, PoolName, Slot, SlotState
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy

#: A stopped agent is restarted by systemd within seconds; until then its slot still counts as supply.
AGENT_RESTART_GRACE_S = 30.0

#: An instance that EC2 lists but etcd does not know (etcd was emptied, or its sidecar lost it) most likely comes back: a sidecar
#: registers again within its poll interval, so for this long the instance counts as a booting one.
UNRECORDED_GRACE_S = 60.0


@dataclass
class PoolCount:
    """How much of a pool there is. Filled in by :func:`take_census` only.

    ``instances`` counts against maxima, ``serving_instances`` (up or booting) for the pool's minimum, ``supply_slots``
    against demand. ``unproven_instances`` are up and have not run a task yet.
    """

    instances: int = 0
    booting_instances: int = 0
    leaving_instances: int = 0
    busy_slots: int = 0
    unproven_instances: int = 0
    supply_slots: int = 0

    @property
    def serving_instances(self) -> int:
        return self.instances - self.leaving_instances


def take_census(observation: Observation, policy: ClusterPolicy, now: float) -> Mapping[PoolName, PoolCount]:
    """Count every pool in one walk over nodes, launch records and instances.

    Pools that exist in the fleet but no longer in the policy are counted too (they still count for the cluster's maximum); they
    are supply for nobody.
    """
    census = _Census(observation, policy, now)
    for node in observation.live_nodes:
        if node.identity.role is NodeRole.WORKER:
            census.add_node(node)
    for launch in observation.launches:
        census.add_launch(launch)
    for instance in observation.unrecorded:
        census.add_unrecorded(instance)
    for instance in observation.unread:
        census.add_unread(instance)
    return census.counts


class _Census:
    def __init__(self, observation: Observation, policy: ClusterPolicy, now: float) -> None:
        self.counts: dict[PoolName, PoolCount] = {pool.name: PoolCount() for pool in policy.pools}
        self._observation = observation
        self._pools = {pool.name: pool for pool in policy.pools}
        self._now = now
        self._registered = Counter(node.identity.launch_id for node in observation.live_nodes)

    def _of(self, name: PoolName | None) -> tuple[PoolCount, PoolPolicy | None]:
        key = name if name is not None else PoolName("")
        return self.counts.setdefault(key, PoolCount()), self._pools.get(key)

    def add_node(self, node: Node) -> None:
        count, pool = self._of(node.pool)
        count.instances += 1
        up = node.state is NodeState.UP
        if not up:
            count.leaving_instances += 1
        elif not node.worked and not node.busy:
            count.unproven_instances += 1
        for slot in node.slots:
            if slot.state is SlotState.BUSY:
                count.busy_slots += 1
            if up and pool is not None and _will_pull(slot, pool, self._now):
                count.supply_slots += 1

    def add_launch(self, launch: Launch) -> None:
        count, pool = self._of(launch.pool)
        if launch.instance_ids:
            ending, node_ids = self._observation.ending, self._observation.node_ids
            number = sum(1 for i in launch.awaited if i not in ending and i not in node_ids)
            late = pool is None or self._now - launch.awaited_since >= pool.startup_timeout_s
        else:
            # The call may have been made, whatever EC2 lists of it already: the record stands for its whole count,
            # less the instances that registered before the answer was written down.
            number = max(0, launch.count - self._registered[launch.launch_id])
            late = False
        count.instances += number
        count.booting_instances += number
        if not late:
            count.supply_slots += number * launch.slots_per_node

    def add_unrecorded(self, instance: Instance) -> None:
        if instance.role is not NodeRole.WORKER:
            return  # a probe that boots or ends takes no worker's place
        count, pool = self._of(instance.pool)
        count.instances += 1
        if instance.instance_id in self._observation.left:
            count.leaving_instances += 1
            return
        if pool is None:
            return
        first_seen = self._observation.unrecorded_since.get(instance.instance_id, self._now)
        if self._now < may_register_until(instance, first_seen, pool.startup_timeout_s):
            count.booting_instances += 1
            count.supply_slots += pool.slots_per_node

    def add_unread(self, instance: Instance) -> None:
        """It exists, and whether it will pull is not known: no supply to count on."""
        if instance.role is NodeRole.WORKER:
            count, _ = self._of(instance.pool)
            count.instances += 1


def may_register_until(instance: Instance, first_seen: float, startup_timeout_s: float) -> float:
    """Until when an instance without any record is still expected to register its node (seconds since the epoch)."""
    return max(instance.launched_at + startup_timeout_s, first_seen + UNRECORDED_GRACE_S)


def _will_pull(slot: Slot, pool: PoolPolicy, now: float) -> bool:
    if slot.state is SlotState.IDLE:
        return True
    if slot.state is SlotState.STARTING:
        return now - slot.since < pool.startup_timeout_s
    return slot.state is SlotState.DOWN and now - slot.since < AGENT_RESTART_GRACE_S
