"""A service with a loop of its own beside the sidecar's: its thread lives for as long as the process.

Guarantees: an error that nobody has foreseen ends neither the thread nor the service for good: it is logged with its traceback,
told once, and the service goes on after a pause that grows up to a minute. Not guaranteed: that it gets any further than before.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from scaler_plugin.core.backoff import Backoff

log = structlog.get_logger(__name__)

#: A service that has not crashed for so long has recovered: the next crash is told again, and its pause is short again.
CALM_S = 300.0


class Service(Protocol):
    def step(self) -> None: ...

    def seconds_to_next_step(self) -> float: ...


class ServiceThread:
    """``tell`` takes the first crash of a row as a sentence for people; ``recover`` is called after each, with their number."""

    def __init__(
        self,
        name: str,
        service: Service,
        tell: Callable[[str], None],
        recover: Callable[[int], None] = lambda _crashes: None,
    ) -> None:
        self._name = name
        self._service = service
        self._tell = tell
        self._recover = recover
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._backoff = Backoff()
        self._crashed_at = float("-inf")
        # A daemon: a pass that waits for EC2 must not keep a process from ending that has resigned already.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self._service.step()
                pause_s = self._service.seconds_to_next_step()
            except Exception as error:
                # A bug. The node must go on reporting and retiring, and whatever called it forth may pass.
                self._stopping.wait(self._after_crash(error))
            else:
                self._wake.wait(pause_s)

    def _after_crash(self, error: Exception) -> float:
        """Say so; how long to pause, in seconds."""
        now = time.monotonic()
        if now - self._crashed_at > CALM_S:
            self._backoff = Backoff()
        self._crashed_at = now
        self._backoff = self._backoff.after_failure(now, random.random())  # noqa: S311
        crashes, pause_s = self._backoff.failures, self._backoff.until - now
        log.exception("service_crashed", service=self._name, crashes=crashes, pause_s=round(pause_s, 1))
        try:
            self._recover(crashes)
            if crashes == 1:
                self._tell(
                    f"The sidecar's service {self._name!r} met an error that it does not know ({type(error).__name__}: {error}) "
                    "and goes on after a pause. Its log has the traceback (service_crashed); please report it."
                )
        except Exception:
            log.exception("crash_not_told", service=self._name)
        return pause_s
