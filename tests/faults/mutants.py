"""Deliberate mistakes in our own code, each one promise's mechanism taken away. The seeded faults must find every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import count
from unittest.mock import patch

from scaler_plugin.agent.memory_gates import MemoryGates
from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.coordination.store import Comparison, LeaseId, Put, Store, Transaction, Write
from scaler_plugin.core import census, housekeeping, rescue
from scaler_plugin.core.model import Launch, Node, NodeState, ServerTask
from scaler_plugin.core.observation import Observation
from scaler_plugin.leader import launcher, rescuer, terminating
from scaler_plugin.sidecar import retirement
from scaler_plugin.simulation.slow_clients import SimFleet

Decide = Callable[[tuple[Node, ...]], bool]


@contextmanager
def no_fence() -> Iterator[None]:
    """A leader writes whether or not its term is over."""

    def transact(self: Election, writes: Sequence[Write], compare: Sequence[Comparison] = ()) -> Transaction:
        return self._store.transact(compare, writes)

    with patch.object(Election, "transact", transact):
        yield


@contextmanager
def no_gate() -> Iterator[None]:
    """Retiring does not keep an agent from pulling."""
    with patch.object(MemoryGates, "close", lambda _self: True):
        yield


@contextmanager
def no_token() -> Iterator[None]:
    """Every RunInstances is a call of its own."""
    numbers = count()
    run_instances = SimFleet.run_instances

    def without_token(self: SimFleet, request: object, _token: str) -> object:
        return run_instances(self, request, f"token-{next(numbers)}")  # type: ignore[arg-type]

    with patch.object(SimFleet, "run_instances", without_token):
        yield


@contextmanager
def no_second_witness() -> Iterator[None]:
    """What etcd does not know is terminated, whatever ClearML says."""

    def judge(suspects: Sequence[housekeeping.Suspect], *_others: object) -> housekeeping.Verdict:
        return housekeeping.Verdict(tuple(suspects), ())

    with patch.object(terminating, "judge", judge):
        yield


@contextmanager
def only_ec2_counts() -> Iterator[None]:
    """The count against a maximum is what EC2 lists, not the union with records and nodes."""
    take_census = census.take_census

    def counted(observation: Observation, *rest: object) -> object:
        listed = tuple(i for i in observation.instances or () if not i.state.ending)
        known = {instance.instance_id for instance in listed}
        nodes = tuple(node for node in observation.nodes if node.instance_id in known)
        return take_census(replace(observation, nodes=nodes, launches=()), *rest)  # type: ignore[arg-type]

    with patch("scaler_plugin.core.planning.take_census", counted):
        yield


@contextmanager
def record_after_the_call() -> Iterator[None]:
    """The launch record is written when EC2 has answered, not before it is asked."""
    put = launcher.LaunchBook.put

    def late(self: launcher.LaunchBook, election: Election, launch: Launch) -> None:
        if not (launch.open_attempt is not None and len(launch.attempts) == 1):
            put(self, election, launch)

    with patch.object(launcher.LaunchBook, "put", late):
        yield


@contextmanager
def no_rescue() -> Iterator[None]:
    with patch.object(rescuer, "find_stranded", lambda *_arguments: ()):
        yield


@contextmanager
def no_holders() -> Iterator[None]:
    """A task is called stranded although a node holds it, and at once."""
    with (
        patch.object(rescue._Holders, "has", lambda _self, _task: False),
        patch.object(rescue._Holders, "may_have_popped", lambda _self, _queue, _since: False),
        patch.object(rescue, "_knows_its_slots", lambda _node: True),
        patch.object(rescuer, "confirmed", lambda found, _monotonic: found),
    ):
        yield


@contextmanager
def silence_is_death() -> Iterator[None]:
    """A node that etcd does not know is taken for an instance that has ended."""
    in_progress = rescue._in_progress

    def hasty(task: ServerTask, worker: object, holders: object, observation: Observation, *rest: object) -> object:
        known = tuple(i for i in observation.instances or () if i.instance_id in observation.node_ids)
        return in_progress(task, worker, holders, replace(observation, instances=known), *rest)  # type: ignore[arg-type]

    with patch.object(rescue, "_in_progress", hasty):
        yield


@contextmanager
def no_look_behind_closed_gates() -> Iterator[None]:
    """The node retires on what it saw before the gates were closed."""
    step = retirement.Retirement.step

    def hasty(self: retirement.Retirement, node: Node, *rest: object) -> str | None:
        with patch.object(self._ports.gates, "slots", lambda: node.slots):
            return step(self, node, *rest)  # type: ignore[arg-type]

    with patch.object(retirement.Retirement, "step", hasty):
        yield


@contextmanager
def no_turns() -> Iterator[None]:
    """Nodes retire without comparing who retired before them."""

    def claim(store: Store, keys: Keys, node: Node, decide: Decide, lease: LeaseId | None, **_options: object) -> bool:
        nodes = tuple(other for other in read_nodes(store, keys) if other.pool == node.pool)
        if lease is None or not decide(nodes):
            return False
        return store.transact([], [Put(keys.node(node.instance_id), encode(node), lease)]).succeeded

    with patch.object(retirement, "claim_retirement", claim):
        yield


@contextmanager
def draining_is_supply() -> Iterator[None]:
    """An idle slot counts, even of a node that takes no task any more."""
    take_census = census.take_census

    def counted(observation: Observation, *rest: object) -> object:
        nodes = tuple(replace(node, state=NodeState.UP) for node in observation.nodes)
        return take_census(replace(observation, nodes=nodes), *rest)  # type: ignore[arg-type]

    with patch("scaler_plugin.core.planning.take_census", counted):
        yield


MUTANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    mutant.__name__: mutant
    for mutant in (
        no_fence,
        no_gate,
        no_token,
        no_second_witness,
        only_ec2_counts,
        record_after_the_call,
        no_rescue,
        no_holders,
        silence_is_death,
        no_look_behind_closed_gates,
        no_turns,
        draining_is_supply,
    )
}
