"""What happened between two scenes, a sentence each: the lines of a demo without a terminal, and the last lines of one on it."""

from __future__ import annotations

from collections.abc import Iterator

from scaler_plugin.core.model import NodeRole, NodeState
from scaler_plugin.localcloud.demo.scene import Scene

_INSTANCE = {
    "running": "{id} boots",
    "shutting-down": "{id} shuts down",
    "terminated": "{id} has ended",
}
_TASK = {"in_progress": "runs on {node}", "completed": "completed", "failed": "failed", "stopped": "was stopped"}


def narrate(before: Scene, after: Scene) -> list[str]:
    """The news in ``after``, in the order in which they lead to each other."""
    return [*_outages(before, after), *_leaders(before, after), *_instances(before, after), *_nodes(before, after),
            *_tasks(before, after)]  # fmt: skip


def _outages(before: Scene, after: Scene) -> Iterator[str]:
    for server in sorted(after.away - before.away):
        yield f"{server} does not answer"
    for server in sorted(before.away - after.away):
        yield f"{server} answers again"


def _leaders(before: Scene, after: Scene) -> Iterator[str]:
    known = {term.term for term in before.terms}
    ended = {term.term for term in before.terms if term.to_s is not None}
    for term in after.terms:
        if term.to_s is not None and term.term not in ended:
            yield f"{term.node} no longer leads (term {term.term})"
        if term.term not in known:
            yield f"{term.node} leads (term {term.term})"


def _instances(before: Scene, after: Scene) -> Iterator[str]:
    known = {instance.id: instance for instance in before.instances}
    for instance in after.instances:
        old = known.get(instance.id)
        if old is None:
            yield f"{instance.id} launched for pool {instance.pool}"
        if instance.state in _INSTANCE and (old is None or old.state != instance.state):
            yield _INSTANCE[instance.state].format(id=instance.id)


def _nodes(before: Scene, after: Scene) -> Iterator[str]:
    known = {node.instance_id: node for node in before.nodes}
    for node in after.nodes:
        old = known.get(node.instance_id)
        if old is None and node.identity.role is NodeRole.WORKER:
            yield f"{node.instance_id} has joined the cluster"
        if node.state is NodeState.RETIRING and (old is None or old.state is not NodeState.RETIRING):
            yield f"{node.instance_id} retires: {node.reason}"


def _tasks(before: Scene, after: Scene) -> Iterator[str]:
    known = {task.id: task for task in before.tasks}
    for task in after.tasks:
        old = known.get(task.id)
        if old is None:
            yield f"task “{task.name}” waits in {task.queue}"
        if task.status in _TASK and (old is None or old.status != task.status):
            yield f"task “{task.name}” {_TASK[task.status].format(node=task.node or 'a node')}"
