"""EC2's announcements, polled from instance metadata, and what they demand: leave, and bring the running tasks to a good end.

It is a service of its own with its own loop beside the sidecar: a metadata service, a ClearML or an etcd that does not answer
delays neither the node's report nor the closing of its gates. The sidecar asks :meth:`Interruptions.demand`, which only remembers
and never waits.

Guarantees: after a notice the node takes no further task, and does not end before its tasks are back in their queues or EC2's time
is over. What metadata cannot be asked at the moment is as it was before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from scaler_plugin.cloud.metadata import InstanceMetadata
from scaler_plugin.coordination.handbacks import read_handbacks
from scaler_plugin.core.handback import Handback
from scaler_plugin.core.interruption import Announced, Notice, weigh
from scaler_plugin.core.leaving import Demand
from scaler_plugin.core.model import Market, Node, NodeState, Slot, SlotState, TaskId
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.errors import CloudError, StoreError
from scaler_plugin.sidecar.farewell import Farewell, FarewellTools

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: AWS's own advice for spot notices: each poll that is missed costs a task that much of its two minutes.
POLL_S = 5.0
#: While tasks are seen off, the slots and hooks are looked at this often.
FAREWELL_STEP_S = 0.5


class Interruptions:
    """A :class:`~scaler_plugin.sidecar.concerns.Concern` with a loop of its own. ``wake`` wakes the sidecar up."""

    def __init__(
        self,
        metadata: InstanceMetadata,
        tools: FarewellTools,
        policy: Callable[[], ClusterPolicy | None],
        wake: Callable[[], None],
    ) -> None:
        self._metadata = metadata
        self._tools = tools
        self._clock = tools.clock
        self._policy = policy
        self._wake = wake
        self._is_spot = tools.identity.market is Market.SPOT
        self._spot: Notice | None = None
        self._rebalance_at: float | None = None
        self._maintenance: tuple[Notice, ...] = ()
        self._next_look_at = float("-inf")
        self._silent = False
        self._announced: Announced | None = None
        self._deadline: float | None = None  # monotonic
        self._node: Node | None = None
        self._farewells: dict[TaskId, tuple[int, Farewell]] = {}
        self._own_promises_read = False

    def demand(self, node: Node) -> Demand | None:
        self._node = node
        announced = self._announced
        if announced is None:
            return None
        return Demand(announced.state, announced.reason, ready=self._ready(announced))

    def step(self) -> None:
        """One pass: look, and go on with what a notice demands. Nothing that the outside does wrong is raised."""
        if self._clock.monotonic() >= self._next_look_at:
            self._next_look_at = self._clock.monotonic() + POLL_S
            self._look()
        if self._announced is not None and self._announced.state is NodeState.INTERRUPTED:
            self._see_tasks_off(self._announced)

    def seconds_to_next_step(self) -> float:
        """How long the runner may sleep before the next pass."""
        left = max(0.0, self._next_look_at - self._clock.monotonic())
        interrupted = self._announced is not None and self._announced.state is NodeState.INTERRUPTED
        return min(left, FAREWELL_STEP_S) if interrupted else left

    # What EC2 says.

    def _look(self) -> None:
        try:
            if self._is_spot:
                spot = self._metadata.spot_interruption()
                self._spot = Notice(spot.action, spot.at) if spot is not None else None
                self._rebalance_at = self._metadata.rebalance_recommended_at()
            self._maintenance = tuple(
                Notice(event.code, event.not_before, event.state == "active")
                for event in self._metadata.scheduled_events()
            )
        except CloudError as error:
            if not self._silent:
                log.warning("metadata_silent", error=str(error))
            self._silent = True
        else:
            self._silent = False
        self._take_in(weigh(self._spot, self._rebalance_at, self._maintenance, self._clock.now()))

    def _take_in(self, announced: Announced | None) -> None:
        if announced == self._announced or self._farewells:
            return  # once tasks are being stopped there is no way back
        self._deadline = None
        if announced is not None and announced.state is NodeState.INTERRUPTED:
            # On the monotonic clock from here on: a step of the wall clock must not cut a task short.
            self._deadline = self._clock.monotonic() + announced.seconds_left(self._clock.now())
        self._announced = announced
        self._wake()  # first of all the gates: a pull that begins now would be a task that is disturbed
        instance = self._tools.identity.instance_id
        if announced is None:
            self._tools.journal.record(
                "interruption_called_off", instance, f"EC2 has called off what it announced to {instance}."
            )
        else:
            self._tools.journal.record(announced.state.value, instance, f"{instance}: {announced.reason}")

    # What becomes of the tasks.

    def _ready(self, announced: Announced) -> bool:
        if announced.state is not NodeState.INTERRUPTED or self._deadline is None:
            return True
        if self._clock.monotonic() > self._deadline:
            return True
        return self._own_promises_read and all(farewell.done for _, farewell in list(self._farewells.values()))

    def _see_tasks_off(self, announced: Announced) -> None:
        node, deadline = self._node, self._deadline
        if node is None or deadline is None:
            return
        if not self._own_promises_read:
            self._take_up_promises(announced, node, deadline)
        for slot in node.slots:
            if slot.state is SlotState.BUSY and slot.task_id is not None and slot.task_id not in self._farewells:
                worker_id = self._tools.identity.worker_id(slot.index, len(node.slots))
                farewell = Farewell(self._tools, announced, slot.task_id, worker_id, slot.queue, deadline)
                self._farewells[slot.task_id] = (slot.index, farewell)
        policy = self._policy()
        pool = policy.pool(self._tools.identity.pool) if policy else None
        most = policy.max_requeues if policy else ClusterPolicy.max_requeues
        ended = False
        for index, farewell in self._farewells.values():
            if not farewell.done:
                farewell.step(_slot(node, index), pool, most)
                ended = ended or farewell.done
        if ended:
            self._wake()

    def _take_up_promises(self, announced: Announced, node: Node, deadline: float) -> None:
        """Those of an earlier process of this sidecar, which was killed before it could keep them."""
        try:
            own = read_handbacks(self._tools.store, self._tools.keys, self._tools.identity.instance_id)
        except StoreError as error:
            log.warning("handbacks_unread", error=str(error))  # the leader will keep them
            own = ()
        for kept in own:
            self._take_up(kept, announced, node, deadline)
        self._own_promises_read = True

    def _take_up(self, kept: Handback, announced: Announced, node: Node, deadline: float) -> None:
        index = next(
            (s.index for s in node.slots if self._tools.identity.worker_id(s.index, len(node.slots)) == kept.worker_id),
            0,
        )
        farewell = Farewell(self._tools, announced, kept.task_id, kept.worker_id, kept.queue, deadline, kept)
        self._farewells[kept.task_id] = (index, farewell)


def _slot(node: Node, index: int) -> Slot:
    """The slot as the sidecar saw it last; a node always has the same ones."""
    return next(slot for slot in node.slots if slot.index == index)
