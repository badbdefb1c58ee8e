"""The thread that keeps leases alive, whatever the rest of the process is doing.

Guarantees: each renewal is called at its interval, sooner after one that failed; an error never ends the thread. It sleeps in
between. Not guaranteed: that a renewal is on time while another one waits for an etcd that does not answer; they share the thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from scaler_plugin.errors import StoreError

log = structlog.get_logger(__name__)

#: After a failure the next try comes after this part of the interval, so that two more fit before a deadline.
RETRY_PART = 1 / 4


@dataclass(frozen=True)
class Renewal:
    """Call ``renew`` every ``every_s`` seconds. ``name`` is for the log."""

    name: str
    renew: Callable[[], object]
    every_s: float


class RenewalThread:
    def __init__(self, renewals: Sequence[Renewal]) -> None:
        self._renewals = tuple(renewals)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)
        self._failing: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the renewal under way. Harmless when called twice or from the thread itself."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        due = {renewal.name: time.monotonic() + renewal.every_s for renewal in self._renewals}
        while due:
            renewal = min(self._renewals, key=lambda one: due[one.name])
            if self._stopping.wait(max(0.0, due[renewal.name] - time.monotonic())):
                return
            # From the start of the call: one that takes long does not stretch the interval.
            began = time.monotonic()
            pause_s = renewal.every_s if self._renew(renewal) else renewal.every_s * RETRY_PART
            due[renewal.name] = max(began + pause_s, time.monotonic())

    def _renew(self, renewal: Renewal) -> bool:
        try:
            renewal.renew()
        except StoreError as error:
            if renewal.name not in self._failing:
                log.warning("renewal_failed", renewal=renewal.name, error=str(error))
        except Exception:
            if renewal.name not in self._failing:
                log.exception("renewal_crashed", renewal=renewal.name)  # a bug; the other leases must not die of it
        else:
            if renewal.name in self._failing:
                log.info("renewal_works_again", renewal=renewal.name)
            self._failing.discard(renewal.name)
            return True
        self._failing.add(renewal.name)
        return False
