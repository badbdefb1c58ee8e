"""What to do next with a launch record, so that a launch happens exactly once whoever leads.

The invariant (protocol 2): every attempt is written, fenced, before its call; the next attempt is written only together with
the outcome of the one before. So at most one attempt of a record is open, a successor knows which calls may have been
made, and repeating the open one is harmless because its token and its parameters are the same.
"""

from __future__ import annotations

from dataclasses import replace

from scaler_plugin.core.model import Attempt, Instance, InstanceId, Launch, LaunchId, LaunchRequest
from scaler_plugin.core.observation import Cooldown, Observation
from scaler_plugin.core.offerings import after_answers

#: First pause of a pool after a launch of which every candidate was refused, and the longest one. Capacity comes back in
#: minutes (Karpenter's cache of unavailable offerings keeps 3 minutes); a wrong AMI or missing right needs a person.
COOLDOWN_FIRST_S = 15.0
COOLDOWN_LONGEST_S = 600.0


def new_launch(
    launch_id: LaunchId,
    count: int,
    slots_per_node: int,
    term: int,
    reason: str,
    candidates: tuple[LaunchRequest, ...],
    now: float,
) -> Launch:
    """The record to write before the first call, with its first attempt already open."""
    launch = Launch(
        launch_id=launch_id,
        pool=candidates[0].pool,
        count=count,
        slots_per_node=slots_per_node,
        term=term,
        created_at=now,
        reason=reason,
        candidates=candidates,
    )
    return _with_next_attempt(launch, now)


def succeeded(launch: Launch, instance_ids: tuple[InstanceId, ...], now: float) -> Launch:
    """The record with its open attempt answered: these instances were started."""
    return replace(_answered(launch, now, instance_ids=instance_ids), awaited=instance_ids)


def refused(launch: Launch, error: str, now: float) -> Launch | None:
    """The record with its open attempt refused and the next candidate's attempt open; ``None`` when none is left."""
    launch = _answered(launch, now, error=error)
    if len(launch.attempts) >= len(launch.candidates):
        return None
    return _with_next_attempt(launch, now)


def found_by_tag(launch: Launch, found: tuple[Instance, ...], now: float) -> Launch:
    """Resolve an open attempt by the instances that carry the launch's tag (at least one).

    Only an open attempt is ever resolved, and no two are open at once, so whatever carries the tag belongs to it.
    Instances that have ended already are part of the answer, but nobody waits for them.
    """
    record = succeeded(launch, tuple(instance.instance_id for instance in found), now)
    gone = {instance.instance_id for instance in found if instance.state.ending}
    return replace(record, awaited=tuple(i for i in record.awaited if i not in gone))


def still_awaited(launch: Launch, observation: Observation) -> Launch:
    """The record without the instances that have registered or that EC2 says are ending."""
    awaited = tuple(i for i in launch.awaited if i not in observation.node_ids and i not in observation.ending)
    return launch if awaited == launch.awaited else replace(launch, awaited=awaited)


def is_complete(launch: Launch) -> bool:
    """True once the outcome is known and every instance has registered or was given up: the record may go."""
    return bool(launch.instance_ids) and not launch.awaited


def cooldown_after(pool_cooldown: Cooldown | None, launch: Launch, error: str, now: float) -> Cooldown:
    """The pool's pause after a launch failed for good, at its open attempt: doubled with each failure in a row."""
    failures = pool_cooldown.failures + 1 if pool_cooldown else 1
    # The exponent is capped as well: after a week of failures 2**n would overflow a float.
    pause = min(COOLDOWN_LONGEST_S, COOLDOWN_FIRST_S * 2.0 ** min(failures - 1, 10))
    refused_before = pool_cooldown.offerings if pool_cooldown else ()
    return Cooldown(
        launch.pool,
        failures,
        now + pause,
        error,
        after_answers(refused_before, _answered(launch, now, error=error), now),
    )


def cooldown_after_success(pool_cooldown: Cooldown | None, launch: Launch, now: float) -> Cooldown | None:
    """What is left of it when a launch has succeeded: the offerings that were refused, if there are any."""
    offerings = after_answers(pool_cooldown.offerings if pool_cooldown else (), launch, now)
    return Cooldown(launch.pool, 0, now, "", offerings) if offerings else None


def _with_next_attempt(launch: Launch, now: float) -> Launch:
    number = len(launch.attempts)
    # EC2 takes 64 ASCII characters as ClientToken; the record's id and the attempt's number make it unique for ever.
    attempt = Attempt(number, f"{launch.launch_id}-{number}", launch.candidates[number], now)
    return replace(launch, attempts=(*launch.attempts, attempt))


def _answered(
    launch: Launch, now: float, *, instance_ids: tuple[InstanceId, ...] = (), error: str | None = None
) -> Launch:
    if launch.open_attempt is None:
        raise ValueError(f"launch {launch.launch_id} has no open attempt to answer")
    answered = replace(launch.open_attempt, instance_ids=instance_ids, error=error, answered_at=now)
    return replace(launch, attempts=(*launch.attempts[:-1], answered))
