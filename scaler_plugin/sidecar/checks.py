"""Runs a pool's own checks beside the sidecar's loop: starts those that are due, looks at those that run, kills those that hang.

Nothing waits for a check, neither the loop nor the end of the node. One that was killed and does not die (a file system that does
not answer holds it) is not started again before it is gone: or a busy node would gather one more of them with every round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from scaler_plugin.config.masking import mask_secrets
from scaler_plugin.core.health import CheckVerdict, HealthCheck, hung, judge_check
from scaler_plugin.core.ports import Clock
from scaler_plugin.sidecar.ports import HookRun, Hooks

log = structlog.get_logger(__name__)


@dataclass
class _Kept:
    """What is known of one check."""

    verdict: CheckVerdict
    next_at: float
    run: HookRun | None = None
    started_at: float = 0.0
    killed: bool = False


class CheckRounds:
    """``report_unusable`` is told of a check that can't be run, once for each sentence."""

    def __init__(
        self, hooks: Hooks, clock: Clock, environment: Mapping[str, str], report_unusable: Callable[[str], None]
    ) -> None:
        self._hooks = hooks
        self._clock = clock
        self._environment = environment
        self._report_unusable = report_unusable
        self._kept: dict[HealthCheck, _Kept] = {}
        self._reported: set[str] = set()

    def step(self, checks: Sequence[HealthCheck]) -> str | None:
        """One look at all of them; why the machine is unfit, by the first check whose last run says so."""
        now = self._clock.monotonic()
        for check in [check for check in self._kept if check not in checks]:  # no longer configured, or changed
            if (run := self._kept.pop(check).run) is not None:
                run.kill()
        unfit = None
        for check in checks:
            # The first run comes at once: at the boot gate it was fit, and nobody looked since.
            kept = self._kept.setdefault(check, _Kept(CheckVerdict(), now))
            self._advance(check, kept, now)
            unfit = unfit or kept.verdict.unfit
        return unfit

    def _advance(self, check: HealthCheck, kept: _Kept, now: float) -> None:
        if kept.run is None:
            if now < kept.next_at:
                return
            kept.run, kept.started_at, kept.killed = self._hooks.start(check.script, self._environment), now, False
            kept.next_at = now + check.every_s
        outcome = kept.run.poll()
        if kept.killed:
            if outcome is not None:
                kept.run = None
        elif outcome is not None:
            kept.run, kept.verdict = None, judge_check(check, outcome.exit_code, mask_secrets(outcome.output))
        elif now - kept.started_at > check.timeout_s:
            kept.run.kill()
            kept.killed, kept.verdict = True, hung(check)
            kept.next_at = now + check.every_s
        unusable = kept.verdict.unusable
        if unusable is not None and unusable not in self._reported:
            self._reported.add(unusable)
            log.warning("check_unusable", check=check.name, why=unusable)
            self._report_unusable(unusable)
