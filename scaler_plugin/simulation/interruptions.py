"""A machine's side of an interruption in the simulated world: its hooks, and the force that ends what runs on a slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scaler_plugin.core.model import Slot
from scaler_plugin.core.ports import Clock
from scaler_plugin.sidecar.ports import HookOutcome, HookRun

if TYPE_CHECKING:
    from scaler_plugin.simulation.machine import SimMachine


@dataclass
class SimHooks:
    """Every script takes ``length_s`` (for ever, if infinite) and ends with ``exit_code``; ``runs`` is what was started."""

    clock: Clock
    length_s: float = 1.0
    exit_code: int | None = 0
    runs: list[Mapping[str, str]] = field(default_factory=list)
    killed: int = 0

    def start(self, script: str, environment: Mapping[str, str]) -> HookRun:
        self.runs.append(environment)
        return _SimRun(self, self.clock.monotonic() + self.length_s)


class _SimRun:
    def __init__(self, hooks: SimHooks, ends_at: float) -> None:
        self._hooks = hooks
        self._ends_at = ends_at
        self._killed = False

    def poll(self) -> HookOutcome | None:
        if self._killed:
            return HookOutcome(-9)
        if self._hooks.clock.monotonic() < self._ends_at:
            return None
        return HookOutcome(self._hooks.exit_code, "simulated")

    def kill(self) -> None:
        self._killed = True
        self._hooks.killed += 1


class SimSlotEnder:
    """Kills a slot's agent and the task's process; systemd starts the agent again."""

    def __init__(self, machine: SimMachine) -> None:
        self._machine = machine

    def end(self, slot: Slot) -> None:
        self._machine.kill_slot(slot.index)
