"""EC2 in memory: the twin of :class:`~scaler_plugin.cloud.ec2.Ec2Fleet` on any clock.

The first five methods are the port; those after them are for the world around it, which boots machines at ``running``, ends
them at ``shutting-down``, and orders faults.

What it guarantees: it passes the same contract tests; the same calls at the same times give the same ids; a listing costs
what is listed, however much has run before. What it does not: it is for one thread, and it checks no parameter but the image.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from scaler_plugin.cloud.memory_faults import Failure, FleetFaults
from scaler_plugin.core.model import Instance, InstanceId, InstanceState, LaunchId, LaunchRequest, NodeRole, PoolName
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import CloudRefused

T = TypeVar("T")

#: EC2 lists a terminated instance for about an hour.
TERMINATED_LISTED_S = 3600.0
#: Characters of a client token that EC2 takes.
TOKEN_LIMIT = 64


@dataclass(frozen=True)
class StateChange:
    """An instance has come into a state; what a simulated world boots and ends its machines by."""

    at: float
    instance_id: InstanceId
    state: InstanceState
    reason: str = ""


@dataclass
class _Machine:
    instance: Instance
    request: LaunchRequest
    history: list[tuple[float, InstanceState]] = field(default_factory=list)
    console: str = ""

    def as_of(self, at: float) -> Instance | None:
        """The instance as it was at a time, ``None`` before its launch."""
        states = [state for since, state in self.history if since <= at]
        return replace(self.instance, state=states[-1]) if states else None


class MemoryFleet:
    """``boot_delay_s`` from pending to running, ``end_delay_s`` from shutting-down to terminated."""

    def __init__(
        self,
        cluster: str,
        clock: Clock,
        boot_delay_s: float = 30.0,
        end_delay_s: float = 5.0,
        images: Container[str] | None = None,
    ) -> None:
        self.faults = FleetFaults()
        self._cluster = cluster
        self._clock = clock
        # EC2 has a clock of its own: a machine whose wall clock jumps does not move it.
        self._epoch = clock.now() - clock.monotonic()
        self._boot_delay_s = boot_delay_s
        self._end_delay_s = end_delay_s
        self._images = images
        self._machines: dict[InstanceId, _Machine] = {}
        self._tokens: dict[str, tuple[LaunchRequest, tuple[InstanceId, ...]]] = {}
        self._due: list[tuple[float, int, InstanceId, InstanceState]] = []
        self._terminated: deque[tuple[float, InstanceId]] = deque()
        self._changes: list[StateChange] = []
        self._living_of: Counter[PoolName | None] = Counter()
        #: How many instances were started in all, and of each launch, with how many it asked for at most.
        self.launched = 0
        self.launches: dict[LaunchId, tuple[int, int]] = {}
        self._scheduled = 0

    def run_instances(self, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        return self._called("run_instances", lambda: self._run(request, token))

    def instances(self) -> tuple[Instance, ...]:
        return self._called("instances", lambda: self._listed(self._machines.values()))

    def instances_of(self, launch_id: LaunchId) -> tuple[Instance, ...]:
        def listed() -> tuple[Instance, ...]:
            return self._listed([m for m in self._machines.values() if m.instance.launch_id == launch_id])

        return self._called("instances_of", listed)

    def terminate(self, instance_ids: Sequence[InstanceId]) -> None:
        def end() -> None:
            for instance_id in instance_ids:
                self._begin_end(instance_id, "TerminateInstances")

        self._called("terminate", end)

    def console_output(self, instance_id: InstanceId) -> str:
        machine = self._machines.get(instance_id)
        return self._called("console_output", lambda: machine.console if machine else "")

    @property
    def quiet(self) -> bool:
        """True while :meth:`take_changes` would have nothing to tell."""
        return not self._changes and (not self._due or self._due[0][0] > self._now())

    def take_changes(self) -> tuple[StateChange, ...]:
        """What has happened since the last time, in order."""
        self._advance()
        changes, self._changes = tuple(self._changes), []
        return changes

    def living_by_pool(self) -> Mapping[PoolName | None, int]:
        """How many instances of each pool exist and are not ending, at this moment."""
        self._advance()
        return self._living_of

    def next_change_at(self) -> float | None:
        """The earliest time (epoch seconds) of a change that comes by itself: how far a virtual clock may leap."""
        self._advance()
        return self._due[0][0] if self._due else None

    def request_of(self, instance_id: InstanceId) -> LaunchRequest:
        """What the instance was launched with, its user-data among it. Raises ``KeyError`` once EC2 has forgotten it."""
        return self._machines[instance_id].request

    def write_console(self, instance_id: InstanceId, text: str) -> None:
        self._machines[instance_id].console = text

    def guest_shut_down(self, instance_id: InstanceId) -> None:
        """The instance's own system shuts down; our launches make that a termination."""
        self._advance()
        self._begin_end(instance_id, "guest shutdown")

    def interrupt(self, instance_id: InstanceId) -> None:
        """EC2 takes the instance back, or its host dies: no system shuts down, the machine is gone at once."""
        self._advance()
        self._begin_end(instance_id, "interruption")

    def _called(self, method: str, work: Callable[[], T]) -> T:
        failure = self.faults.take(method)
        if failure is not None and failure is not Failure.LOST_ANSWER:
            raise failure.error(method)
        self._advance()
        answer = work()
        if failure is not None:
            raise failure.error(method)
        return answer

    def _run(self, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        if len(token) > TOKEN_LIMIT:
            raise _refused(
                "InvalidParameterValue", f"the client token {token!r} has more than {TOKEN_LIMIT} characters"
            )
        if token in self._tokens:
            return self._repeated(request, token)
        if self._images is not None and request.image_id not in self._images:
            raise _refused("InvalidAMIID.NotFound", f"the image {request.image_id} does not exist")
        zone = request.zone or "us-east-1a"
        room, code = self.faults.room(request, zone, self._living)
        count = min(request.count, room)
        if count < 1:
            raise _refused(code, f"there is no room for {request.instance_type} ({request.market.value}) in {zone}")
        ids = tuple(self._start(request, zone) for _ in range(count))
        self._tokens[token] = (request, ids)
        return ids

    def _living(self) -> int:
        return sum(self._living_of.values())

    def _repeated(self, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        first_request, ids = self._tokens[token]
        if request != first_request:
            raise _refused("IdempotentParameterMismatch", f"the token {token} was used with other parameters")
        machines = [self._machines.get(instance_id) for instance_id in ids]
        if all(machine is None or machine.instance.state is InstanceState.TERMINATED for machine in machines):
            raise _refused("IdempotentInstanceTerminated", f"the instances of the token {token} have been terminated")
        return ids

    def _start(self, request: LaunchRequest, zone: str) -> InstanceId:
        self.launched += 1
        started, asked = self.launches.get(request.launch_id, (0, 0))
        self.launches[request.launch_id] = (started + 1, max(asked, request.count))
        now = self._now()
        instance_id = InstanceId(f"i-{self.launched:017x}")
        instance = Instance(
            instance_id=instance_id,
            state=InstanceState.PENDING,
            launched_at=now,
            pool=request.pool or None,
            launch_id=request.launch_id,
            instance_type=request.instance_type,
            market=request.market,
            zone=zone,
            role=NodeRole.WORKER if request.pool else NodeRole.PROBE,
        )
        self._machines[instance_id] = _Machine(instance, request)
        self._living_of[request.pool] += 1
        self._enter(instance_id, InstanceState.PENDING, now)
        self._schedule(now + self._boot_delay_s, instance_id, InstanceState.RUNNING)
        return instance_id

    def _begin_end(self, instance_id: InstanceId, reason: str) -> None:
        machine = self._machines.get(instance_id)
        if machine is None or machine.instance.state.ending:
            return
        now = self._now()
        self._living_of[machine.request.pool] -= 1
        self._enter(instance_id, InstanceState.SHUTTING_DOWN, now, reason)
        self._schedule(now + self._end_delay_s, instance_id, InstanceState.TERMINATED)

    def _enter(self, instance_id: InstanceId, state: InstanceState, at: float, reason: str = "") -> None:
        machine = self._machines[instance_id]
        machine.instance = replace(machine.instance, state=state)
        machine.history.append((at, state))
        self._changes.append(StateChange(at, instance_id, state, reason))

    def _schedule(self, at: float, instance_id: InstanceId, state: InstanceState) -> None:
        # The number keeps changes that are due at the same moment in the order in which they were made.
        self._scheduled += 1
        heapq.heappush(self._due, (at, self._scheduled, instance_id, state))

    def _advance(self) -> None:
        """Make every change that is due, each at its own moment."""
        while self._due and self._due[0][0] <= self._now():
            at, _, instance_id, state = heapq.heappop(self._due)
            if state is InstanceState.TERMINATED:
                self._enter(instance_id, state, at)
                self._terminated.append((at, instance_id))
            elif self._machines[instance_id].instance.state is InstanceState.PENDING:
                self._enter(instance_id, state, at)
        while self._terminated and self._terminated[0][0] + TERMINATED_LISTED_S <= self._now():
            del self._machines[self._terminated.popleft()[1]]

    def _listed(self, machines: Iterable[_Machine]) -> tuple[Instance, ...]:
        ours = (machine for machine in machines if machine.request.cluster == self._cluster)
        if not self.faults.listing_lag_s:
            return tuple(machine.instance for machine in ours)
        seen = (machine.as_of(self._now() - self.faults.listing_lag_s) for machine in ours)
        return tuple(instance for instance in seen if instance is not None)

    def _now(self) -> float:
        return self._epoch + self._clock.monotonic()


def _refused(code: str, why: str) -> CloudRefused:
    return CloudRefused(f"EC2 refused RunInstances: {why} ({code}).", code)
