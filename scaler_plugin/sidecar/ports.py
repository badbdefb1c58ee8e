"""The outside of one node, as the sidecar's parts share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.ports import Clock, Fleet, Gates, Host, TaskServer


@dataclass(frozen=True)
class NodePorts:
    """``fleet`` and ``server`` are made on first use: only a leader or a dying node pays for them."""

    store: Store
    keys: Keys
    gates: Gates
    host: Host
    clock: Clock
    fleet: Callable[[], Fleet]
    server: Callable[[], TaskServer]
