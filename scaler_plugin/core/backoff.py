"""How long to leave a failing service alone: exponential with jitter, so that a fleet does not come back in step."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0


@dataclass(frozen=True)
class Backoff:
    """Failures in a row of one service, and until when (on the monotonic clock) it is left alone."""

    failures: int = 0
    until: float = 0.0

    def ready(self, monotonic: float) -> bool:
        return monotonic >= self.until

    def after_failure(self, monotonic: float, jitter: float) -> Backoff:
        """The next state; ``jitter`` in [0, 1) is drawn by the caller.

        "Equal jitter" of the AWS Architecture Blog's "Exponential Backoff And Jitter": half of the delay is fixed,
        half is random.
        """
        delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self.failures, 10))
        return Backoff(self.failures + 1, monotonic + delay * (0.5 + 0.5 * jitter))
