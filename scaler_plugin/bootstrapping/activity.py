"""What the cluster's instances do, as far as anybody can say: EC2 knows which run, their own records in etcd what runs on them.

Guarantees: an instance that runs an agent counts as without a task only if its own sidecar says so; a source that cannot be read
is part of the answer and no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.coordination.requests import request
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import Instance, InstanceId, Node, NodeRole, SlotState
from scaler_plugin.core.requests import DrainRequest
from scaler_plugin.errors import ScalerError
from scaler_plugin.status.wording import counted

#: So many are named in a sentence.
NAMED = 5


class NodeRecords:
    """The nodes' own records and what is asked of nodes. Connects at the first call, which raises what ``open_store`` does."""

    def __init__(self, open_store: Callable[[], Store], keys: Keys) -> None:
        self._open_store = open_store
        self._keys = keys
        self._store: Store | None = None

    def read(self) -> tuple[Node, ...]:
        """Raises ``ScalerError`` when etcd cannot be used."""
        return read_nodes(self._connected(), self._keys)

    def drain(self, instance_id: InstanceId, at: float, why: str) -> None:
        """Raises ``ScalerError`` when etcd cannot be used."""
        request(self._connected(), self._keys, DrainRequest(instance_id, at, why))

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _connected(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
        return self._store


@dataclass(frozen=True)
class Activity:
    """``alive``: what EC2 lists and has not ended. ``unknown``: those of which nobody can say what they do, and ``why_unknown``."""

    cluster: str
    alive: tuple[Instance, ...]
    nodes: tuple[Node, ...] = ()
    unknown: tuple[InstanceId, ...] = ()
    why_unknown: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Each task and where it runs."""
        return tuple(
            f"{slot.task_id or 'one'} on {node.instance_id} (pool {node.pool})"
            for node in self.nodes
            for slot in node.slots
            if slot.state is SlotState.BUSY
        )

    @property
    def nothing_is_lost(self) -> bool:
        """Whether it is certain that no task runs."""
        return not self.tasks and not self.unknown

    @property
    def sentence(self) -> str:
        """What runs, for a person who must decide."""
        many = len(self.alive) != 1
        head = f"{counted(len(self.alive), 'instance')} of cluster {self.cluster} {'run' if many else 'runs'}"
        head += f" ({named(i.instance_id for i in self.alive)})"
        if self.tasks:
            count = len(self.tasks)
            head += f", and {counted(count, 'task')} {'run' if count > 1 else 'runs'} there: {named(self.tasks)}."
        elif self.nothing_is_lost:
            head += f", and no task runs on {'them' if many else 'it'}."
        else:
            head += "."
        if self.unknown:
            head += f" Whether a task runs on {named(self.unknown)} is not known: {self.why_unknown}"
        return head


def look(cluster: str, alive: Sequence[Instance], records: NodeRecords) -> Activity:
    """What these instances do. Asks etcd only if one of them has an agent."""
    # A probe or a standby has no agent, whether or not it has registered yet.
    workers = [instance.instance_id for instance in alive if instance.role is NodeRole.WORKER]
    if not workers:
        return Activity(cluster, tuple(alive))
    try:
        nodes = {node.instance_id: node for node in records.read()}
    except ScalerError as error:
        return Activity(cluster, tuple(alive), unknown=tuple(workers), why_unknown=str(error))
    return Activity(
        cluster,
        tuple(alive),
        tuple(nodes[worker] for worker in workers if worker in nodes),
        tuple(worker for worker in workers if worker not in nodes),
        "it is not registered in etcd: it boots, or its sidecar is gone.",
    )


def named(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:NAMED]) + (f" and {len(listed) - NAMED} more" if len(listed) > NAMED else "")
