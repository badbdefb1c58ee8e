"""What goes wrong in the in-memory EC2, as a test or a seeded simulation orders it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from scaler_plugin.core.model import LaunchRequest, Market
from scaler_plugin.errors import CloudError, CloudRefused, CloudUnavailable


class Failure(str, Enum):
    LOST_REQUEST = "lost_request"  # no answer, and nothing was done
    LOST_ANSWER = "lost_answer"  # no answer, but the work was done
    THROTTLED = "throttled"  # RequestLimitExceeded, nothing was done
    REFUSED = "refused"  # UnauthorizedOperation, nothing was done

    def error(self, method: str) -> CloudError:
        if self is Failure.THROTTLED:
            return CloudUnavailable(
                f"EC2 throttles {method}. It will be tried again, less often.", "RequestLimitExceeded"
            )
        if self is Failure.REFUSED:
            return CloudRefused(f"EC2 refused {method}. Allow it to the role of this machine.", "UnauthorizedOperation")
        return CloudUnavailable(f"EC2 did not answer {method}. It will be tried again.", "ReadTimeoutError")


@dataclass(frozen=True)
class Shortage:
    """EC2 gives at most ``available`` of these per call; ``None`` stands for every type, market or zone."""

    instance_type: str | None = None
    market: Market | None = None
    zone: str | None = None
    available: int = 0

    def concerns(self, request: LaunchRequest, zone: str) -> bool:
        return (
            self.instance_type in (None, request.instance_type)
            and self.market in (None, request.market)
            and self.zone in (None, zone)
        )


class FleetFaults:
    """``listing_lag_s``: listings show EC2 as it was that long ago. ``account_limit``: most instances at any time."""

    def __init__(self) -> None:
        self.listing_lag_s = 0.0
        self.account_limit: int | None = None
        self.shortages: list[Shortage] = []
        self._failing: dict[str, list[Failure]] = {}
        self._outage: Failure | None = None

    def fail_next(self, method: str, failure: Failure, calls: int = 1) -> None:
        """Let the next calls of a method of the port fail, e.g. ``fail_next("run_instances", Failure.LOST_ANSWER)``."""
        self._failing.setdefault(method, []).extend([failure] * calls)

    def fail_all(self, failure: Failure | None) -> None:
        """Let every call fail until this is called with ``None``."""
        self._outage = failure

    def take(self, method: str) -> Failure | None:
        """How this call fails, if it does."""
        if failing := self._failing.get(method):
            return failing.pop(0)
        return self._outage

    def room(self, request: LaunchRequest, zone: str, living: Callable[[], int]) -> tuple[int, str]:
        """How many of the request can start, and the error code that stands for the limit which binds."""
        rooms = [(s.available, "InsufficientInstanceCapacity") for s in self.shortages if s.concerns(request, zone)]
        if self.account_limit is not None:
            rooms.append((max(0, self.account_limit - living()), "VcpuLimitExceeded"))
        return min(rooms, default=(request.count, ""), key=lambda room: room[0])
