"""Ends the instance: by a shutdown of its operating system, and by EC2 if that has not worked after a minute. Both are asked again
until the machine goes.

The shutdown needs no right at AWS, because instances are launched with ``InstanceInitiatedShutdownBehavior=terminate``.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from scaler_plugin.core.model import InstanceId
from scaler_plugin.core.ports import Clock, Fleet, Host
from scaler_plugin.errors import CloudError, ConfigError, HostError

log = structlog.get_logger(__name__)

#: systemd stops a machine within its default stop timeout of 90 s at the worst and usually in 10; an instance that still
#: runs after this long is ended from outside, and again at this interval.
SHUTDOWN_PATIENCE_S = 60.0


class Ending:
    """The end of the instance, once decided; :meth:`step` brings it about however often it must be tried."""

    def __init__(
        self, instance_id: InstanceId, reason: str, host: Host, fleet: Callable[[], Fleet], clock: Clock
    ) -> None:
        self._instance_id = instance_id
        self._reason = reason
        self._host = host
        self._fleet = fleet
        self._clock = clock
        self._next_at: float | None = None

    def step(self) -> None:
        """Ask the OS first, EC2 when that was refused or has not worked in time; then both, at intervals."""
        now = self._clock.monotonic()
        if self._next_at is not None and now < self._next_at:
            return
        overdue = self._next_at is not None
        self._next_at = now + SHUTDOWN_PATIENCE_S
        if not self._shut_down() or overdue:
            self._terminate()

    def _shut_down(self) -> bool:
        try:
            self._host.shut_down(self._reason)
        except HostError as error:
            log.error("shutdown_refused", error=str(error))
            return False
        return True

    def _terminate(self) -> None:
        log.warning("terminating_itself", instance=self._instance_id, reason=self._reason)
        try:
            self._fleet().terminate([self._instance_id])
        except (CloudError, ConfigError) as error:
            log.error("terminate_failed", instance=self._instance_id, error=str(error))
