"""A service of the outside that may fail: backs off by itself and says so on the problem board.

"ClearML is down" is one fact with one back-off, however many calls of a pass would have needed it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

import structlog

from scaler_plugin.core.backoff import Backoff
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import ScalerError
from scaler_plugin.leader.problems import ProblemBoard

log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")


class GuardedService:
    """Calls go through :meth:`ask`. After a failure every call is skipped until the back-off is over."""

    def __init__(
        self, name: str, failures: type[ScalerError], clock: Clock, problems: ProblemBoard, rng: Random
    ) -> None:
        self.name = name
        self._failures = failures
        self._clock = clock
        self._problems = problems
        self._rng = rng
        self._backoff = Backoff()
        self._last_error = ""
        #: Since when (monotonic) every call has failed; ``None`` while the service answers.
        self.failing_since: float | None = None

    def ask(self, call: Callable[[], Answer]) -> Answer | None:
        """The call's answer, or ``None`` if it failed or the service is being left alone."""
        if self.resting():
            return None
        try:
            answer = call()
        except self._failures as error:
            self.failed(error)
            return None
        self.answered()
        return answer

    def answered(self) -> None:
        if self._backoff.failures:
            log.info("service_answers_again", service=self.name, failures=self._backoff.failures)
        self._backoff = Backoff()
        self.failing_since = None

    def failed(self, error: ScalerError) -> None:
        now = self._clock.monotonic()
        if str(error) != self._last_error or not self._backoff.failures:
            log.warning("service_failed", service=self.name, error=str(error))
        self._last_error = str(error)
        self._backoff = self._backoff.after_failure(now, self._rng.random())
        if self.failing_since is None:
            self.failing_since = now
        self._report()

    def resting(self) -> bool:
        """True while a failure's back-off lasts; its reason stays on the board meanwhile."""
        if self._backoff.ready(self._clock.monotonic()):
            return False
        self._report()
        return True

    def _report(self) -> None:
        self._problems.report(
            self.name,
            self._last_error,
            f"{self.name} is asked again with growing pauses; nothing is launched or ended on doubt meanwhile.",
        )
