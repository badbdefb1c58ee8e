"""The outside of one node, as the sidecar's parts share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import Slot
from scaler_plugin.core.ports import Clock, Fleet, Gates, Host, TaskServer


@dataclass(frozen=True)
class NodePorts:
    """``fleet`` and ``server`` make a client by the configuration of that moment: only a leader or a dying node pays for it.

    Both may raise ``ConfigError`` and ``CloudError``, for a secret that cannot be read.
    """

    store: Store
    keys: Keys
    gates: Gates
    host: Host
    clock: Clock
    fleet: Callable[[], Fleet]
    server: Callable[[], TaskServer]


class SlotEnder(Protocol):
    """Ends by force what runs on a slot."""

    def end(self, slot: Slot) -> None:
        """Kill the slot's agent first, so that it reports nothing wrong about the task, then everything of the task.

        Never raises; whether it worked shows in the slot's state.
        """


@dataclass(frozen=True)
class HookOutcome:
    """How a script ended: its exit code (``None`` if it never started) and the end of its output."""

    exit_code: int | None
    output: str = ""


class HookRun(Protocol):
    """A script that was started."""

    def poll(self) -> HookOutcome | None:
        """How it ended; ``None`` while it runs. Returns at once."""

    def kill(self) -> None:
        """Have it and everything it started killed, and return at once; :meth:`poll` tells when it is dead."""


class Hooks(Protocol):
    """Runs users' scripts. Nothing is raised: a script that cannot be started has ended."""

    def start(self, script: str, environment: Mapping[str, str]) -> HookRun:
        """Start the script with these variables added to a bare environment, and return at once."""
