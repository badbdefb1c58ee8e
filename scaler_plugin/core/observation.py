"""What the leader sees in one pass.

The order in which the leader reads matters and is part of the contract: **nodes and launch records first, queues after**.
A task that an agent pulls in between then looks like an idle node without backlog (one launch too few, made good in the next
pass) and never like backlog without an idle node (one launch too many, paid for).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from scaler_plugin.core.breaker import StartRecord
from scaler_plugin.core.model import Backlog, Instance, InstanceId, Launch, LaunchId, Node, PoolName, QueueName
from scaler_plugin.core.offerings import RefusedOffering


@dataclass(frozen=True)
class Cooldown:
    """A pool whose launches failed is left alone until ``until``; stored in etcd so that it outlives the leader.

    ``what`` is the last error's sentence. ``offerings`` were refused lately, also by launches that succeeded with another; where
    only such are known, ``failures`` is 0 and ``until`` is past.
    """

    pool: PoolName
    failures: int
    until: float
    what: str
    offerings: tuple[RefusedOffering, ...] = ()


@dataclass(frozen=True)
class Observation:
    """One pass's picture. ``None`` means that the source could not be read; it never means "empty".

    ``unrecorded_since`` says since when the leader has seen an instance that has neither a node nor a launch record.

    ``left`` are the unrecorded whose node, when the leader saw its record last, was leaving: their systems shut down.

    ``unread_nodes`` are nodes that are registered, so their sidecars live, but whose records can't be understood.
    ``unread_launches`` are launch records that can't be, and since when the leader has seen them: they may stand for instances
    that EC2 does not list yet.
    """

    nodes: tuple[Node, ...] = ()
    launches: tuple[Launch, ...] = ()
    backlogs: Mapping[QueueName, Backlog] | None = None
    instances: tuple[Instance, ...] | None = None
    cooldowns: tuple[Cooldown, ...] = ()
    unrecorded_since: Mapping[InstanceId, float] = field(default_factory=dict)
    left: frozenset[InstanceId] = frozenset()
    starts: tuple[StartRecord, ...] = ()
    unread_nodes: frozenset[InstanceId] = frozenset()
    unread_launches: Mapping[LaunchId, float] = field(default_factory=dict)

    def waiting(self, queue: QueueName) -> int:
        """How many tasks wait in the queue; 0 for a queue that does not exist or could not be read."""
        backlog = (self.backlogs or {}).get(queue)
        return len(backlog) if backlog else 0

    @cached_property
    def ending(self) -> frozenset[InstanceId]:
        """Instances that EC2 says are shutting down or gone."""
        return frozenset(i.instance_id for i in self.instances or () if i.state.ending)

    @cached_property
    def live_nodes(self) -> tuple[Node, ...]:
        """The nodes whose instance EC2 has not reported as ending."""
        return tuple(node for node in self.nodes if node.instance_id not in self.ending)

    @cached_property
    def node_ids(self) -> frozenset[InstanceId]:
        """The registered nodes, whether their records can be understood or not."""
        return self.unread_nodes.union(node.instance_id for node in self.nodes)

    @cached_property
    def unread(self) -> tuple[Instance, ...]:
        """Living instances whose node is registered, but can't be understood: nobody knows what they do."""
        return tuple(i for i in self.instances or () if i.instance_id in self.unread_nodes and not i.state.ending)

    @cached_property
    def unrecorded(self) -> tuple[Instance, ...]:
        """Living instances of the cluster with no node record, and no launch record that holds or may yet find them."""
        # Those awaited only: one that has registered and then lost its node record is in no record any more.
        held = {i for launch in self.launches for i in launch.awaited}
        unresolved = {launch.launch_id for launch in self.launches if not launch.instance_ids}
        return tuple(
            instance
            for instance in self.instances or ()
            if not instance.state.ending
            and instance.instance_id not in self.node_ids
            and instance.instance_id not in held
            and instance.launch_id not in unresolved
        )
