"""Stops a pool whose instances don't start: a broken image or init script would otherwise be paid for again and again.

An instance that ends, or is ended, before its node registers is a failed start, whatever the cause. So is one whose node registers
and is found unfit soon after, before any task has run on it. After some in a row the pool pauses, then tries a *single* instance;
if that one fails too, the pause doubles. A node that registers ends it all; where one was useless *after* it had registered, only a
node of a later launch that runs a task does. A new configuration may be the cure, so with it the trial comes at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from scaler_plugin.core.model import InstanceId, Node, PoolName

#: One failure may be the machine's, two bad luck.
TRIP_AFTER = 3
FIRST_PAUSE_S = 300.0
LONGEST_PAUSE_S = 3600.0

#: So long after its launch a node that is found unfit may still be called a failed start: a slow boot, and the first rounds of slow
#: checks. A machine that fails later has broken.
USELESS_WITHIN_S = 1800.0

#: Beside those that may be reported again, so many failed instances are remembered: what a pass sees of them may be older than
#: the record.
_REMEMBERED = 200


@dataclass(frozen=True)
class FailedStart:
    """``what`` is a sentence, ``detail`` the end of the console output or of the instance's own log.

    ``useless_since`` is set for one whose node registered and was then of no use: when the instance was launched.
    """

    instance_id: InstanceId
    what: str
    detail: str = ""
    useless_since: float | None = None


@dataclass(frozen=True)
class StartRecord:
    """How a pool's instances start lately; in etcd, so that a new leader counts on. No record means: well.

    ``in_a_row`` counts failures since the last success, ``pauses`` how often the pool has paused since then, ``until`` is the end
    of the last pause. ``revision`` is the configuration's at the last failure. ``what`` and ``detail`` are of the last one.
    ``useless_since`` is when the first of them that registered and was then of no use was launched, ``None`` if there is none.
    """

    pool: PoolName
    in_a_row: int
    pauses: int
    until: float
    revision: int
    what: str
    detail: str
    failed: tuple[InstanceId, ...]
    useless_since: float | None = None

    def paused(self, now: float) -> bool:
        return now < self.until

    def on_trial(self, now: float) -> bool:
        """Whether the pool has paused and may start one instance to see whether it works again."""
        return self.in_a_row >= TRIP_AFTER and not self.paused(now)


def after_failures(
    record: StartRecord | None,
    pool: PoolName,
    failures: Sequence[FailedStart],
    revision: int,
    now: float,
    current: AbstractSet[InstanceId] = frozenset(),
) -> StartRecord | None:
    """The record with these failures counted, each instance once.

    Args:
        record: what is known so far.
        pool: the pool of the instances.
        failures: failed starts that may have been counted before.
        revision: the configuration in force.
        now: seconds since the epoch.
        current: instances that are awaited or registered. A failure may be reported again for as long as it is one of them, and
            is not forgotten before.
    """
    known = record or StartRecord(pool, 0, 0, 0.0, revision, "", "", ())
    counted_before = frozenset(known.failed)
    new = [failure for failure in failures if failure.instance_id not in counted_before]
    if not new:
        return record
    last = new[-1]
    useless = [failure.useless_since for failure in new if failure.useless_since is not None]
    counted = replace(
        known,
        in_a_row=known.in_a_row + len(new),
        revision=revision,
        what=last.what,
        detail=last.detail,
        failed=_remembered((*known.failed, *(failure.instance_id for failure in new)), current),
        useless_since=known.useless_since if known.useless_since is not None else min(useless, default=None),
    )
    if counted.in_a_row < TRIP_AFTER or counted.paused(now):
        return counted
    # The exponent is capped: after a week of failures 2**n would overflow a float.
    pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(counted.pauses, 10))
    return replace(counted, pauses=counted.pauses + 1, until=now + pause)


def _remembered(failed: tuple[InstanceId, ...], current: AbstractSet[InstanceId]) -> tuple[InstanceId, ...]:
    of_the_past = [instance_id for instance_id in failed if instance_id not in current]
    forgotten = frozenset(of_the_past[:-_REMEMBERED])
    return tuple(instance_id for instance_id in failed if instance_id not in forgotten)


def with_words(record: StartRecord, failure: FailedStart) -> StartRecord:
    """A failure that was counted, told at greater length: for people, it changes no count."""
    return replace(record, what=failure.what, detail=failure.detail)


def failed_after_registering(node: Node, launched_at: float, now: float) -> FailedStart | None:
    """The node as a failed start, if it is one. ``launched_at`` is when EC2 says that its instance was launched."""
    if not node.useless or now - launched_at > USELESS_WITHIN_S:
        return None
    what = f"Instance {node.instance_id} registered and was of no use: {node.reason}"
    return FailedStart(node.instance_id, what, useless_since=launched_at)


def starts_again(record: StartRecord, registered: bool, worked: Iterable[float]) -> bool:
    """Whether the failures in a row are over.

    Args:
        record: the pool's.
        registered: whether an instance that a launch awaited has registered its node.
        worked: when the instances were launched whose nodes have run a task.
    """
    since = record.useless_since
    if since is None:
        return registered
    # Not those of earlier launches: they were good before this began, and prove nothing.
    return any(launched_at >= since for launched_at in worked)


def with_new_configuration(record: StartRecord, revision: int, now: float) -> StartRecord:
    """A configuration pushed during the pause may be the cure: the trial comes at once."""
    if record.revision == revision or not record.paused(now):
        return record
    return replace(record, until=now, revision=revision)
