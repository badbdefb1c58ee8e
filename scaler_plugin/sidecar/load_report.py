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
            load = self._host.load()
            self._load = Load(
                _step(load.cpu), _step(load.memory), _step_or_none(load.gpu), _step_or_none(load.gpu_memory)
            )
        return self._load


def _step(percent: float) -> float:
    return round(percent / STEP_PERCENT) * STEP_PERCENT


def _step_or_none(percent: float | None) -> float | None:
    return None if percent is None else _step(percent)
