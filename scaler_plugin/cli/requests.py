"""``scaler-sidecar drain``, ``undrain``, ``protect`` and ``unprotect``: what people ask of nodes, by way of etcd."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from scaler_plugin.cli.options import (
    ClusterOption,
    ConfigOption,
    EtcdOption,
    OpenCluster,
    connect,
    duration_option,
    open_cluster,
)
from scaler_plugin.config.connect import ClusterAddress
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.coordination.requests import request, withdraw_drain, withdraw_protection
from scaler_plugin.core.model import InstanceId, Node, NodeRole, SlotState
from scaler_plugin.core.requests import DrainRequest, ProtectRequest, idle
from scaler_plugin.errors import ConfigError
from scaler_plugin.node.setup import read_setup, state_dir

#: Between two looks of ``drain --wait``.
_LOOK_S = 1.0

NodesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NODE]...", help="Instance ids, as `status` shows them.")
]
NodeArgument = Annotated[
    str | None, typer.Argument(metavar="[NODE]", help="Instance id. Without one: the machine this runs on.")
]


def drain(
    nodes: NodesArgument = None,
    all_: Annotated[bool, typer.Option("--all", help="Every worker of the cluster.")] = False,
    idle_: Annotated[bool, typer.Option("--idle", help="Every worker on which no task runs.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until they are gone, and say how far they are.")] = False,
    etcd: EtcdOption = None,
    cluster: ClusterOption = None,
    config: ConfigOption = None,
) -> None:
    """Let nodes take no further task, finish the one they have, and end.

    A running task is never disturbed. While there are tasks to do, or the pool has a minimum, the leader launches others in their
    place: lower `max_instances` to keep a pool small.
    """
    if sum((bool(nodes), all_, idle_)) != 1:
        raise ConfigError("Name the nodes to drain, or give --idle or --all; one of the three.")
    with open_cluster(etcd, cluster, config) as opened:
        workers = _workers(opened)
        chosen = tuple(workers.values()) if all_ else idle(tuple(workers.values())) if idle_ else _named(workers, nodes)
        for node in chosen:
            request(opened.store, opened.keys, DrainRequest(node.instance_id, time.time(), _who()))
        typer.echo(f"{_counted(len(chosen))} will finish and end: {_list(chosen)}." if chosen else "No node to drain.")
        if wait:
            _wait_until_gone(opened, {node.instance_id for node in chosen})


def undrain(
    nodes: NodesArgument = None,
    all_: Annotated[bool, typer.Option("--all", help="Every worker of the cluster.")] = False,
    etcd: EtcdOption = None,
    cluster: ClusterOption = None,
    config: ConfigOption = None,
) -> None:
    """Take a drain back, as long as the node has not ended."""
    if bool(nodes) == all_:
        raise ConfigError("Name the nodes, or give --all.")
    with open_cluster(etcd, cluster, config) as opened:
        workers = _workers(opened)
        chosen = tuple(workers.values()) if all_ else _named(workers, nodes)
        for node in chosen:
            withdraw_drain(opened.store, opened.keys, node.instance_id)
        typer.echo(f"{_counted(len(chosen))} may take tasks again.")


def protect(
    node: NodeArgument = None,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="How long, such as 2h. Otherwise until `unprotect`."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for others to read in `status`.")] = "",
    etcd: EtcdOption = None,
    cluster: ClusterOption = None,
    config: ConfigOption = None,
) -> None:
    """Keep a node although it is idle: it does not retire by itself.

    It goes on taking tasks. What EC2 takes, what is drained, and what comes to its `max_lifetime` leaves all the same.
    """
    length_s = duration_option("--for", for_).seconds if for_ is not None else None
    with _cluster_of(node, etcd, cluster, config) as (opened, instance_id):
        now = time.time()
        until = now + length_s if length_s is not None else None
        asked = ProtectRequest(instance_id, now, until, " ".join(reason.split()).rstrip("."), _who())
        request(opened.store, opened.keys, asked)
        typer.echo(f"{instance_id}: {asked.sentence}")


def unprotect(
    node: NodeArgument = None, etcd: EtcdOption = None, cluster: ClusterOption = None, config: ConfigOption = None
) -> None:
    """Take a node's protection back."""
    with _cluster_of(node, etcd, cluster, config) as (opened, instance_id):
        withdraw_protection(opened.store, opened.keys, instance_id)
        typer.echo(f"{instance_id} is not protected any more.")


@contextmanager
def _cluster_of(
    node: str | None, etcd: str | None, cluster: str | None, config: Path | None
) -> Iterator[tuple[OpenCluster, InstanceId]]:
    """The cluster and the node: the named one, or this machine with the cluster that it belongs to."""
    if node is None:
        setup = read_setup(state_dir())
        if setup.identity.role is not NodeRole.WORKER:
            raise ConfigError("This machine is a standby, which never retires. Name the node to protect.")
        with connect(ClusterAddress(setup.etcd, setup.prefix, setup.identity.cluster)) as opened:
            yield opened, setup.identity.instance_id
        return
    with open_cluster(etcd, cluster, config) as opened:
        [named] = _named(_workers(opened), [node])
        yield opened, named.instance_id


def _workers(opened: OpenCluster) -> dict[str, Node]:
    nodes = read_nodes(opened.store, opened.keys)
    return {node.instance_id: node for node in nodes if node.identity.role is NodeRole.WORKER}


def _named(workers: dict[str, Node], names: list[str] | None) -> tuple[Node, ...]:
    for name in names or ():
        if name not in workers:
            raise ConfigError(
                f"No worker {name} is registered in this cluster; `scaler-sidecar status --all` lists them."
            )
    return tuple(workers[name] for name in dict.fromkeys(names or ()))


def _wait_until_gone(opened: OpenCluster, awaited: set[InstanceId]) -> None:
    """Each change of each node is one line; a node is gone when its record is."""
    told: dict[InstanceId, str] = {}
    while awaited:
        present = {node.instance_id: node for node in read_nodes(opened.store, opened.keys)}
        for instance_id in sorted(awaited):
            node = present.get(instance_id)
            doing = _doing(node) if node is not None else "gone"
            if told.get(instance_id) != doing:
                told[instance_id] = doing
                typer.echo(f"{instance_id}: {doing}")
            if node is None:
                awaited.discard(instance_id)
        if awaited:
            time.sleep(_LOOK_S)


def _doing(node: Node) -> str:
    tasks = [slot.task_id or "a task" for slot in node.slots if slot.state is SlotState.BUSY]
    return f"{node.state.value}, finishes {' and '.join(tasks)}" if tasks else node.state.value


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user id without a name
        return socket.gethostname()


def _counted(number: int) -> str:
    return f"{number} node" if number == 1 else f"{number} nodes"


def _list(nodes: tuple[Node, ...]) -> str:
    names = [node.instance_id for node in nodes[:5]]
    return ", ".join(names) + (f" and {len(nodes) - 5} more" if len(nodes) > 5 else "")
