"""Reads one pass's picture: etcd first, then ClearML, then EC2 (see :mod:`scaler_plugin.core.observation` for the order's reason).

A pass costs one call to ClearML; EC2 is listed every :data:`LISTING_QUIET_S` while nothing is pending.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from scaler_plugin.coordination.cooldowns import read_cooldowns
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_book import LaunchBook
from scaler_plugin.coordination.malformed import tell_once
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.coordination.start_records import read_start_records
from scaler_plugin.coordination.store import Entry, Store
from scaler_plugin.core.housekeeping import LISTING_LAG_S
from scaler_plugin.core.model import Backlog, Instance, InstanceId, Launch, LaunchId, Node, NodeState, QueueName
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock, Fleet, TaskServer
from scaler_plugin.errors import RecordMalformed, TaskServerError
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.problems import ProblemBoard

#: DescribeInstances while nothing boots or ends: EC2's limits are per account and region, shared with everybody else in it.
LISTING_QUIET_S = 10.0
#: … and while a launch, an end or an instance without a record is pending, where seconds decide about a maximum or a replacement.
LISTING_BUSY_S = 3.0
#: A listing older than this is no picture of the fleet any more: no launch is planned on it.
LISTING_STALE_S = 30.0
#: A queue that ClearML refused to create is tried again this seldom: the reason is a right or a name, and a pass is one call.
CREATE_AGAIN_S = 60.0


class Observer:
    """Keeps the last EC2 listing, since when instances have been without a record and launch records unreadable, and which of them
    were leaving when their records went; a leader without that memory decides a little later."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        book: LaunchBook,
        server: TaskServer,
        fleet: Fleet,
        clock: Clock,
        problems: ProblemBoard,
        clearml: GuardedService,
        ec2: GuardedService,
    ) -> None:
        self._store = store
        self._keys = keys
        self._book = book
        self._server = server
        self._fleet = fleet
        self._clock = clock
        self._problems = problems
        self._clearml = clearml
        self._ec2 = ec2
        self._listing: tuple[Instance, ...] | None = None
        self._listed_at = 0.0
        self._unrecorded_since: dict[InstanceId, float] = {}
        self._leaving: frozenset[InstanceId] = frozenset()  # as their records said last
        self._unread_since: dict[LaunchId, float] = {}
        self._not_created: dict[QueueName, tuple[float, str]] = {}  # until when it is left alone, and why

    def observe(self, policy: ClusterPolicy) -> Observation:
        """Read everything once. Raises ``StoreError`` when etcd cannot be read; other sources become ``None``.

        Records in etcd that can't be understood are passed over.
        """
        unread_nodes: set[InstanceId] = set()

        def pass_over(entry: Entry, error: RecordMalformed) -> None:
            tell_once(entry, error)
            unread_nodes.add(InstanceId(entry.key.removeprefix(self._keys.nodes)))

        nodes = read_nodes(self._store, self._keys, pass_over)
        launches = self._book.read()
        now = self._clock.now()
        self._unread_since = {unread: self._unread_since.get(unread, now) for unread in self._book.unread}
        cooldowns = read_cooldowns(self._store, self._keys)
        starts = read_start_records(self._store, self._keys)
        backlogs = self._backlogs(policy)
        instances = self._instances(nodes, launches)
        observation = Observation(
            nodes,
            launches,
            backlogs,
            instances,
            cooldowns,
            starts=starts,
            unread_nodes=frozenset(unread_nodes),
            unread_launches=dict(self._unread_since),
        )
        now = self._clock.now()
        self._unrecorded_since = {
            instance.instance_id: self._unrecorded_since.get(instance.instance_id, now)
            for instance in observation.unrecorded
        }
        # EC2 calls an instance running for as long as its system takes to stop, and its record is gone by then.
        left = self._leaving.intersection(self._unrecorded_since)
        unlisted = self._leaving - observation.node_ids if instances is None else frozenset()
        self._leaving = left.union(unlisted, (node.instance_id for node in nodes if node.state is not NodeState.UP))
        return replace(observation, unrecorded_since=dict(self._unrecorded_since), left=left)

    def expect_change(self) -> None:
        """List EC2 in the next pass: something was just started or ended."""
        self._listed_at = float("-inf")

    def _backlogs(self, policy: ClusterPolicy) -> Mapping[QueueName, Backlog] | None:
        backlogs = self._clearml.ask(lambda: self._server.backlogs(policy.queues))
        if backlogs is not None:
            for queue in policy.queues:
                if queue not in backlogs:
                    self._create_queue(queue)
        return backlogs

    def _create_queue(self, queue: QueueName) -> None:
        now = self._clock.monotonic()
        until, why = self._not_created.get(queue, (now, ""))
        if now >= until:
            try:
                self._server.create_queue(queue)
            except TaskServerError as error:
                why = str(error)
                self._not_created[queue] = (now + CREATE_AGAIN_S, why)
            else:
                self._not_created.pop(queue, None)
                return
        self._problems.report(
            f"queue {queue}",
            f"The queue {queue} does not exist and could not be created: {why}",
            "Create it in ClearML, or give the cluster's credentials the right to.",
        )

    def _instances(self, nodes: tuple[Node, ...], launches: tuple[Launch, ...]) -> tuple[Instance, ...] | None:
        now = self._clock.monotonic()
        if self._listing is None or now - self._listed_at >= self._listing_interval(nodes, launches):
            listing = self._ec2.ask(self._fleet.instances)
            if listing is not None:
                self._listing, self._listed_at = listing, now
        if self._listing is not None and now - self._listed_at > LISTING_STALE_S:
            self._listing = None
        return self._listing

    def _listing_interval(self, nodes: tuple[Node, ...], launches: tuple[Launch, ...]) -> float:
        unread = any(self._clock.now() - since < LISTING_LAG_S for since in self._unread_since.values())
        retiring = any(node.state is NodeState.RETIRING for node in nodes)
        if launches or self._unrecorded_since or unread or retiring:
            return LISTING_BUSY_S
        return LISTING_QUIET_S
