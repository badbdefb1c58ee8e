"""Puts together, on real parts, why this machine's node leaves or stays other than for idleness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from scaler_plugin.agent.pool_queues import announce_queues, announced_queues
from scaler_plugin.agent.slot_ender import LocalSlotEnder
from scaler_plugin.cloud.metadata import ImdsMetadata
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.registry import Registry
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import NodeRole
from scaler_plugin.core.ports import Clock, TaskServer
from scaler_plugin.leader.journal import Journal
from scaler_plugin.node.control import knock
from scaler_plugin.node.hook_units import hooks_for_sidecar
from scaler_plugin.node.logins import LocalLogins
from scaler_plugin.node.setup import NodeSetup, set_up_at
from scaler_plugin.sidecar.concerns import Concern, Protection
from scaler_plugin.sidecar.farewell import FarewellTools
from scaler_plugin.sidecar.interruption import Interruptions
from scaler_plugin.sidecar.lifetime import Lifetime
from scaler_plugin.sidecar.pool_queues import PoolQueues
from scaler_plugin.sidecar.requests import RequestedOfNode
from scaler_plugin.sidecar.sessions import Sessions
from scaler_plugin.sidecar.settings import FollowedSettings


@dataclass(frozen=True)
class NodeReasons:
    """``interruptions`` has a loop of its own, which the runner drives; a standby node, which may be no instance, has none."""

    concerns: tuple[Concern, ...] = ()
    protections: tuple[Protection, ...] = ()
    interruptions: Interruptions | None = None


def node_reasons(
    setup: NodeSetup,
    directory: Path,
    store: Store,
    keys: Keys,
    registry: Registry,
    clock: Clock,
    settings: FollowedSettings,
    server: Callable[[], TaskServer],
) -> NodeReasons:
    """``server`` makes a connection to ClearML of its own at each call."""
    if setup.identity.role is not NodeRole.WORKER:
        return NodeReasons()
    identity = setup.identity
    tools = FarewellTools(
        identity,
        store,
        keys,
        clock,
        cache(server),
        LocalSlotEnder(directory, setup.worker_ids),
        hooks_for_sidecar(directory),
        Journal(store, keys, clock),
    )
    interruptions = Interruptions(ImdsMetadata(), tools, lambda: settings.policy, lambda: knock(directory))
    requested = RequestedOfNode(identity.instance_id, store, keys, clock, lambda: settings.policy)
    lifetime = Lifetime(set_up_at(directory), store, keys, registry, clock, lambda: settings.policy)
    sessions = Sessions(LocalLogins(), clock, lambda: settings.policy)
    queues = PoolQueues(
        announced_queues(directory) or setup.queues,
        None if setup.freeze else partial(announce_queues, directory),
        lambda: settings.policy,
    )
    return NodeReasons((interruptions, requested, lifetime, queues), (requested, sessions), interruptions)
