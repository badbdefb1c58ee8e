"""Time that only moves when it is told to: for the simulated world and for tests."""

from __future__ import annotations


class VirtualClock:
    """:class:`~scaler_plugin.core.ports.Clock` whose wall clock may jump away from the monotonic one, as real ones do."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._wall_offset = now
        self._monotonic = 0.0

    def now(self) -> float:
        return self._wall_offset + self._monotonic

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks. Raises ``ValueError`` for a step back: time has none."""
        if seconds < 0:
            raise ValueError(f"time does not go back, but was told to advance by {seconds} s")
        self._monotonic += seconds

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward (or back, if negative) without time passing."""
        self._wall_offset += seconds


class SkewedClock:
    """One machine's clock: the world's time, with a wall clock that may be off."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.skew_s = 0.0

    def now(self) -> float:
        return self._clock.now() + self.skew_s

    def monotonic(self) -> float:
        return self._clock.monotonic()
