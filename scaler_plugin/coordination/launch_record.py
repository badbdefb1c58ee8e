"""A launch as it lies in etcd: written out whole, or, if that is long, with what its candidates share written once.

The candidates of a launch differ in type and place. Written out whole, a stock image's user-data in every type and zone of a pool,
and again in each attempt, passes the 1.5 MiB that etcd takes. In the compact form the user-data stands once, and an attempt has the
number of its candidate. Reading gives the very launch that was written, from either form.

Short ones stay whole because a leader that knows no compact form may take over in the midst of an upgrade: an open record that it
can't read is no supply to it, and it launches for the same tasks again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scaler_plugin.coordination.codec import decode, encode
from scaler_plugin.core.model import Attempt, InstanceId, Launch, LaunchId, LaunchRequest, PoolName
from scaler_plugin.errors import RecordMalformed

#: A longer record is made compact: a sixth of what etcd takes, as other writes may go with it.
WHOLE_CHARS = 262_144


@dataclass(frozen=True)
class _StoredAttempt:
    """``candidate`` is its number, or ``request`` holds it whole."""

    number: int
    token: str
    started_at: float
    candidate: int | None = None
    request: LaunchRequest | None = None
    instance_ids: tuple[InstanceId, ...] = ()
    error: str | None = None
    answered_at: float | None = None


@dataclass(frozen=True)
class _StoredLaunch:
    """``user_data`` is that of every candidate; empty where each has its own."""

    launch_id: LaunchId
    pool: PoolName
    count: int
    slots_per_node: int
    term: int
    created_at: float
    reason: str
    candidates: tuple[LaunchRequest, ...]
    attempts: tuple[_StoredAttempt, ...] = ()
    awaited: tuple[InstanceId, ...] = ()
    user_data: str = ""


def encode_launch(launch: Launch) -> str:
    whole = encode(launch)
    return whole if len(whole) <= WHOLE_CHARS else _encode_compact(launch)


def _encode_compact(launch: Launch) -> str:
    texts = {candidate.user_data for candidate in launch.candidates}
    user_data = texts.pop() if len(texts) == 1 else ""
    candidates = tuple(replace(c, user_data="") if user_data else c for c in launch.candidates)
    return encode(
        _StoredLaunch(
            launch.launch_id,
            launch.pool,
            launch.count,
            launch.slots_per_node,
            launch.term,
            launch.created_at,
            launch.reason,
            candidates,
            tuple(_stored(attempt, launch.candidates) for attempt in launch.attempts),
            launch.awaited,
            user_data,
        )
    )


def decode_launch_text(text: str, key: str) -> Launch:
    """Raises :class:`~scaler_plugin.errors.RecordMalformed`, which names the key."""
    stored = decode(_StoredLaunch, text, key)
    candidates = stored.candidates
    if stored.user_data:
        candidates = tuple(replace(candidate, user_data=stored.user_data) for candidate in candidates)
    return Launch(
        stored.launch_id,
        stored.pool,
        stored.count,
        stored.slots_per_node,
        stored.term,
        stored.created_at,
        stored.reason,
        candidates,
        tuple(_restored(attempt, candidates, key) for attempt in stored.attempts),
        stored.awaited,
    )


def _stored(attempt: Attempt, candidates: tuple[LaunchRequest, ...]) -> _StoredAttempt:
    # They are tried in order, so an attempt has the number of its candidate.
    is_next = attempt.request in candidates[attempt.number : attempt.number + 1]
    return _StoredAttempt(
        attempt.number,
        attempt.token,
        attempt.started_at,
        attempt.number if is_next else None,
        None if is_next else attempt.request,
        attempt.instance_ids,
        attempt.error,
        attempt.answered_at,
    )


def _restored(stored: _StoredAttempt, candidates: tuple[LaunchRequest, ...], key: str) -> Attempt:
    request = stored.request
    if request is None:
        if stored.candidate is None or not 0 <= stored.candidate < len(candidates):
            raise RecordMalformed(f"The launch record {key} has an attempt of no candidate; delete it")
        request = candidates[stored.candidate]
    return Attempt(
        stored.number,
        stored.token,
        request,
        stored.started_at,
        stored.instance_ids,
        stored.error,
        stored.answered_at,
    )
