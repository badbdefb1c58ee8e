"""The leader's list of what a person may have to act on, rebuilt in every pass: what is not reported again is over."""

from __future__ import annotations

from scaler_plugin.core.model import Problem
from scaler_plugin.core.ports import Clock


class ProblemBoard:
    """Collects one pass's problems and remembers since when each has lasted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before: dict[tuple[str, str], Problem] = {}
        self._current: dict[tuple[str, str], Problem] = {}

    def begin_pass(self) -> None:
        self._before, self._current = self._current, {}

    def report(self, about: str, what: str, what_to_do: str, detail: str = "") -> None:
        """Add a problem to this pass; one that the pass before had too keeps its ``since``."""
        known = self._before.get((about, what))
        since = known.since if known else self._clock.now()
        self._current[about, what] = Problem(about, what, what_to_do, since, detail)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """This pass's problems so far, the longest-lasting first."""
        return tuple(sorted(self._current.values(), key=lambda problem: problem.since))
