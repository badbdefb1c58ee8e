"""The machine's own time."""

from __future__ import annotations

import time


class SystemClock:
    """:class:`~scaler_plugin.core.ports.Clock` of this machine.

    ``monotonic`` is Linux's ``CLOCK_BOOTTIME``, which goes on while the machine is suspended (a hibernated instance must not
    wake up in the belief that it still leads); elsewhere Python's own.
    """

    def __init__(self) -> None:
        self._clock_id: int | None = getattr(time, "CLOCK_BOOTTIME", None)

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic() if self._clock_id is None else time.clock_gettime(self._clock_id)
