"""Launches whose call this process has made without learning its outcome: when each is tried again, and when its time is over.

EC2 may fail at one call and answer all others, and a refusal that says nothing about the token may last until a person acts. So
each such launch has a back-off of its own; its pool starts no other launch meanwhile, and no other pool waits for it.

What it remembers is this process's: a successor knows the age of a launch by its record, asks at least once, and then decides a
little later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

import structlog

from scaler_plugin.core.backoff import Backoff
from scaler_plugin.core.housekeeping import LISTING_LAG_S
from scaler_plugin.core.model import Attempt, Launch, PoolName
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import CloudError, CloudUnavailable
from scaler_plugin.leader.problems import ProblemBoard

log = structlog.get_logger(__name__)

#: EC2 lists what it has started within seconds, a minute at the worst. A launch that is still not settled after so long, and
#: of which it lists nothing, is none.
LOST_AFTER_S = 900.0


@dataclass(frozen=True)
class _Doubt:
    pool: PoolName
    error: str
    backoff: Backoff
    quiet_since: float
    """On the monotonic clock: since then no call of this process can have started anything."""


class Unsettled:
    def __init__(self, clock: Clock, problems: ProblemBoard, rng: Random) -> None:
        self._clock = clock
        self._problems = problems
        self._rng = rng
        self._doubts: dict[str, _Doubt] = {}  # by the token of the open attempt

    def forget(self) -> None:
        """Forget all: another leader was at work."""
        self._doubts = {}

    def keep_only(self, launches: Iterable[Launch]) -> None:
        """Forget what is settled, by whomever."""
        open_ones = {attempt.token for launch in launches if (attempt := launch.open_attempt) is not None}
        self._doubts = {token: doubt for token, doubt in self._doubts.items() if token in open_ones}

    def failed(self, launch: Launch, attempt: Attempt, error: CloudError) -> None:
        """The call of the open attempt has told nothing about its outcome."""
        now = self._clock.monotonic()
        known = self._doubts.get(attempt.token)
        if known is None or known.error != str(error):
            log.warning("launch_unsettled", launch=launch.launch_id, pool=launch.pool, error=str(error))
        backoff = (known.backoff if known else Backoff()).after_failure(now, self._rng.random())
        # What EC2 refused has started nothing. But an earlier leader may have asked just before this one did.
        quiet_since = now if known is None or isinstance(error, CloudUnavailable) else known.quiet_since
        self._doubts[attempt.token] = _Doubt(launch.pool, str(error), backoff, quiet_since)
        self.report(launch)

    def failures(self, launch: Launch) -> int:
        """How often in a row its call has told nothing, as far as this process knows."""
        doubt = self._doubt(launch)
        return doubt.backoff.failures if doubt else 0

    def resting(self, launch: Launch) -> bool:
        """Whether it is too early to ask again."""
        doubt = self._doubt(launch)
        return doubt is not None and not doubt.backoff.ready(self._clock.monotonic())

    def has_one_of(self, pool: PoolName) -> bool:
        """Whether there is a launch of the pool among them: another one would most likely end as it did."""
        return any(doubt.pool == pool for doubt in self._doubts.values())

    def time_is_over(self, launch: Launch) -> bool:
        """Whether it has been asked for long enough: its call is not made again."""
        attempt = launch.open_attempt
        if attempt is None or attempt.token not in self._doubts:
            return False
        return self._clock.now() - attempt.started_at >= LOST_AFTER_S

    def would_be_listed(self, launch: Launch) -> bool:
        """Whether EC2 lists by now whatever a call of it can have started."""
        doubt = self._doubt(launch)
        return doubt is not None and self._clock.monotonic() - doubt.quiet_since >= LISTING_LAG_S

    def error(self, launch: Launch) -> str:
        doubt = self._doubt(launch)
        return doubt.error if doubt else ""

    def report(self, launch: Launch) -> None:
        """Keep the reason on the board while it lasts."""
        if (doubt := self._doubt(launch)) is not None:
            self._problems.report(
                f"launch {launch.launch_id}",
                f"Whether launch {launch.launch_id} of pool {launch.pool} has started anything is not known: {doubt.error}",
                f"EC2 is asked again with growing pauses. After {LOST_AFTER_S / 60:.0f} minutes the launch is given up if no "
                "instance of it is listed; other pools do not wait for it.",
            )

    def _doubt(self, launch: Launch) -> _Doubt | None:
        attempt = launch.open_attempt
        return self._doubts.get(attempt.token) if attempt is not None else None
