"""Users' scripts without processes: a test says how each ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from scaler_plugin.sidecar.ports import HookOutcome

HANGS = None


class ScriptedRun:
    def __init__(self, outcome: HookOutcome | None) -> None:
        self._outcome = outcome
        self.killed = False

    def poll(self) -> HookOutcome | None:
        return self._outcome

    def kill(self) -> None:
        self.killed = True


class ScriptedHooks:
    """``outcomes`` holds each script's end, ``HANGS`` for one that never comes; a script that is not in it succeeds."""

    def __init__(self) -> None:
        self.outcomes: dict[str, HookOutcome | None] = {}
        self.started: Counter[str] = Counter()
        self.runs: list[ScriptedRun] = []

    def start(self, script: str, environment: Mapping[str, str]) -> ScriptedRun:
        self.started[script] += 1
        self.runs.append(ScriptedRun(self.outcomes.get(script, HookOutcome(0))))
        return self.runs[-1]
