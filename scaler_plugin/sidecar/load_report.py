"""The machine's load as the node's record carries it: coarse and seldom, because every change is a write to etcd."""

from __future__ import annotations

from scaler_plugin.core.model import Load
from scaler_plugin.core.ports import Clock, Host

#: A new sample at most this often …
SAMPLE_INTERVAL_S = 15.0
#: … in steps of so many percent, so that an idle machine's noise is no change.
STEP_PERCENT = 5.0


class LoadReport:
    def __init__(self, host: Host, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._sampled_at = float("-inf")
        self._load: Load | None = None

    def current(self) -> Load | None:
        """The last sample, rounded; a new one is taken when it is old enough."""
        now = self._clock.monotonic()
        if now - self._sampled_at >= SAMPLE_INTERVAL_S:
            self._sampled_at = now
            load, last = self._host.load(), self._load
            self._load = Load(
                _coarse(load.cpu, last.cpu if last else None),
                _coarse(load.memory, last.memory if last else None),
                _coarse_or_none(load.gpu, last.gpu if last else None),
                _coarse_or_none(load.gpu_memory, last.gpu_memory if last else None),
            )
        return self._load


def _coarse(percent: float, last: float | None) -> float:
    """Rounded to a step; the last value stays while it is less than a step away, or noise at a border would be a change."""
    if last is not None and abs(percent - last) < STEP_PERCENT:
        return last
    return round(percent / STEP_PERCENT) * STEP_PERCENT


def _coarse_or_none(percent: float | None, last: float | None) -> float | None:
    return None if percent is None else _coarse(percent, last)
