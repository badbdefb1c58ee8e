"""Users' scripts without processes: a test says how each ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from scaler_plugin.sidecar.ports import HookOutcome

HANGS = None


class ScriptedRun:
    def __init__(self, outcome: HookOutcome | None, deathless: bool) -> None:
        self._outcome = outcome
        self.deathless = deathless
        self.killed = False

    def poll(self) -> HookOutcome | None:
        return HookOutcome(-9) if self.killed and not self.deathless else self._outcome

    def kill(self) -> None:
        self.killed = True


class ScriptedHooks:
    """``outcomes`` holds each script's end, ``HANGS`` for one that never comes; a script that is not in it succeeds.

    ``deathless``: no kill ends a script, as one that waits for a file system that does not answer.
    """

    def __init__(self) -> None:
        self.deathless = False
        self.outcomes: dict[str, HookOutcome | None] = {}
        self.started: Counter[str] = Counter()
        self.runs: list[ScriptedRun] = []

    def start(self, script: str, environment: Mapping[str, str]) -> ScriptedRun:
        self.started[script] += 1
        self.runs.append(ScriptedRun(self.outcomes.get(script, HookOutcome(0)), self.deathless))
        return self.runs[-1]
