"""Who leads: an election through one key in etcd, in the manner of client-go's ``leaderelection``, but fenced.

The leader's key is put under a lease if it does not exist; its create revision is the term. Candidates watch the key and campaign
when it goes.

Guarantees:

- At most one term is the current one, and terms only grow (until etcd is set up anew).
- No write made through :meth:`Election.fenced` takes effect after its term has ended, however late it arrives: etcd compares the
  key's create revision in the same transaction.
- :attr:`Election.leadership` is ``None`` from the local deadline on: the monotonic time at which the last acknowledged renewal was
  *sent*, plus the TTL, minus a margin. etcd counts the TTL from a later moment, so the holder stops first. This needs no
  answer from etcd and holds for a process that was paused: it finds out when it looks.
- :meth:`Election.resign` frees the key at once; a holder that dies frees it after the TTL (etcd looks every half second).
- A holder whose renewing thread lives but whose steps have stopped loses the term after ``STALLED_AFTER_TTLS`` TTLs.
- Whatever other hands put under the leader's key, candidates clear it away and one leads again.

Not guaranteed:

- That two processes never *believe* to lead at the same moment: a clock whose rate is wrong by more than ``margin / ttl``
  (10 % by default), or a pause between looking at ``leadership`` and acting, breaks that. So whatever is not a write to etcd
  must be harmless when done twice (launches are: see ``launch_book``).
- That leadership survives a change of etcd's own leader without delay: etcd then extends every lease, by up to one TTL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from scaler_plugin.coordination.codec import decode, encode
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.malformed import tell_once
from scaler_plugin.coordination.store import (
    Comparison,
    CreatedAt,
    Delete,
    Entry,
    LeaseId,
    ModifiedAt,
    Put,
    Store,
    Transaction,
    ValueIs,
    Watch,
    Write,
)
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import ConfigError, LeaseLost, NotLeader, RecordMalformed, StoreError

#: etcd grants no shorter lease (1.5 times its election timeout, rounded up): a shorter one here would only seem so.
SHORTEST_TTL_S = 2
#: A renewal every third of the TTL: one may get lost and the next still comes in time.
RENEWALS_PER_TTL = 3
#: A leader that has made no step for so many TTLs (a minute by default) hangs. A pass that waits for slow answers of EC2 or
#: ClearML may take some TTLs.
STALLED_AFTER_TTLS = 6


@dataclass(frozen=True)
class Leadership:
    """One term. ``since`` is the wall-clock time at which it began; ``key`` is the leader's key, ``value`` what it holds."""

    term: int
    since: float
    key: str
    value: str

    @property
    def fence(self) -> tuple[CreatedAt, ValueIs]:
        """The comparisons that every write of this term carries.

        The create revision is the term. The value names the candidate and the time: an etcd that was emptied counts revisions
        from the start, and its first leader may get the very number of a leader that has not noticed yet.
        """
        return CreatedAt(self.key, self.term), ValueIs(self.key, self.value)


@dataclass(frozen=True)
class LeaderRecord:
    """The leader as everybody may read it."""

    candidate: str
    term: int
    since: float


@dataclass(frozen=True)
class _Candidacy:
    """The value of the leader's key."""

    candidate: str
    since: float


class _LeaderWatch:
    def __init__(self, watch: Watch, on_cancel: Callable[[], None]) -> None:
        self._watch = watch
        self._on_cancel: Callable[[], None] | None = on_cancel

    def cancel(self) -> None:
        self._watch.cancel()
        on_cancel, self._on_cancel = self._on_cancel, None
        if on_cancel is not None:
            on_cancel()


def read_leader(store: Store, keys: Keys) -> LeaderRecord | None:
    """Who leads according to etcd, or ``None`` between two terms."""
    entry = store.get(keys.leader)
    return None if entry is None else leader_record(entry)


def leader_record(entry: Entry) -> LeaderRecord:
    """The leader's key as read, for those who read it together with others. Raises ``StoreError`` if it is malformed."""
    value = decode(_Candidacy, entry.value, entry.key)
    return LeaderRecord(value.candidate, entry.create_revision, value.since)


class Election:
    """One candidate. ``step`` and ``resign`` belong to one thread, ``renew`` may have its own; anyone may read ``leadership``."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        candidate: str,
        clock: Clock,
        ttl_s: int = 10,
        margin_s: float = 1.0,
        make_lock: Callable[[], AbstractContextManager[bool]] = threading.Lock,
    ) -> None:
        """Raises ``ConfigError`` unless ``ttl > ttl - margin > renewal interval``, so that no bad combination ever runs.

        ``make_lock`` makes the lock that is held over calls to etcd; the simulated world has threads of its own.
        """
        if ttl_s < SHORTEST_TTL_S:
            raise ConfigError(f"the leader's TTL of {ttl_s} s is too short for etcd; use {SHORTEST_TTL_S} s or more")
        if not 0 < margin_s < ttl_s - ttl_s / RENEWALS_PER_TTL:
            raise ConfigError(
                f"a margin of {margin_s:g} s does not fit a leader's TTL of {ttl_s} s; "
                f"use more than 0 and less than {ttl_s - ttl_s / RENEWALS_PER_TTL:g} s"
            )
        self._store = store
        self._keys = keys
        self._candidate = candidate
        self._clock = clock
        self._ttl_s = ttl_s
        self._margin_s = margin_s
        self._stepping = make_lock()  # held over calls to etcd; never by renew or leadership
        self._state = threading.Lock()  # held for assignments only
        self._lease: LeaseId | None = None  # ours, whether the key is under it or not
        self._leadership: Leadership | None = None
        self._deadline = float("-inf")
        self._stepped_at = float("-inf")
        self._watches = 0
        self._changed = threading.Event()  # as a watch has said
        self._other_seen_at = float("-inf")  # when we looked last, if another one led

    @property
    def renew_every_s(self) -> float:
        return self._ttl_s / RENEWALS_PER_TTL

    @property
    def leadership(self) -> Leadership | None:
        """The term, if this candidate leads at this moment, by the local deadline. Asks nobody."""
        with self._state:
            return self._leadership if self._clock.monotonic() < self._deadline else None

    def step(self) -> Leadership | None:
        """One pass: see who leads, and campaign if nobody does. The term, if that is this candidate.

        While another one leads and a watch would tell of its end, this asks etcd only once in a TTL, so it may be called often.
        After a lost answer the next step finds out: a key under this candidate's own lease is its own term.
        Raises :class:`~scaler_plugin.errors.StoreError`; the local deadline goes on counting meanwhile.
        """
        with self._stepping:
            now = self._stepped_at = self._clock.monotonic()
            if self._watches and not self._changed.is_set() and now - self._other_seen_at < self._ttl_s:
                return None
            self._changed.clear()
            self._other_seen_at = float("-inf")
            entry = self._store.get(self._keys.leader)
            if entry is not None and entry.lease is None:
                entry = self._remove_ownerless(entry)
            if entry is None:
                self._forget_term()
                entry = self._campaign()
            if entry is None or entry.lease is None or entry.lease != self._lease:
                self._drop_lease()
                if entry is not None:
                    self._other_seen_at = now
                return None
            return self._hold(entry)

    def renew(self) -> None:
        """Renew the lease once, if there is one. Call this every ``renew_every_s``.

        A lease that is gone ends the term here and now; the next step campaigns again. Raises ``StoreUnavailable`` and
        ``StoreRefused``: the term then ends by its deadline unless a later renewal succeeds.
        """
        with self._state:
            lease = self._lease
        if self._clock.monotonic() - self._stepped_at > STALLED_AFTER_TTLS * self._ttl_s:
            self._drop_lease()
        elif lease is not None:
            self._renew(lease)

    def fenced(self, writes: Sequence[Write], compare: Sequence[Comparison] = ()) -> bool:
        """Write as the leader. False, and nothing written, if one of ``compare`` does not hold.

        Raises :class:`~scaler_plugin.errors.NotLeader`, with nothing written, if the term is over.
        """
        return self.transact(writes, compare).succeeded

    def transact(self, writes: Sequence[Write], compare: Sequence[Comparison] = ()) -> Transaction:
        """:meth:`fenced`, for those who need the revision."""
        held = self.leadership
        if held is None:
            raise NotLeader(f"{self._candidate} does not lead, or could not renew in time; nothing was written")
        answer = self._store.transact((*held.fence, *compare), writes)
        if not answer.succeeded:
            # A term that ended never comes back, so a key that still carries it now carried it in the transaction.
            entry = self._store.get(self._keys.leader) if compare else None
            if entry is None or (entry.create_revision, entry.value) != (held.term, held.value):
                self._forget_term(held)
                raise NotLeader(f"term {held.term} of {self._candidate} is over: another may lead; nothing was written")
        return answer

    def resign(self) -> None:
        """Give up leadership and candidacy at once. Never raises; if etcd does not hear of it, the lease runs out."""
        self._forget_term()
        with self._stepping:
            self._drop_lease()

    def watch(self, on_change: Callable[[], None]) -> Watch:
        """Call ``on_change`` (from any thread) when the leader changes; then it is time for a step."""

        def changed() -> None:
            self._changed.set()
            on_change()

        watch = self._store.watch(self._keys.leader, changed)
        self._watches += 1
        return _LeaderWatch(watch, self._unwatch)

    def _unwatch(self) -> None:
        self._watches -= 1

    def _remove_ownerless(self, entry: Entry) -> Entry | None:
        """A leader's key under no lease is no candidate's: a put by hand, or a copy of another etcd. It would stand for ever."""
        tell_once(entry, RecordMalformed(f"The leader's key {entry.key} was under no lease; it was removed"))
        self._store.transact([ModifiedAt(entry.key, entry.mod_revision)], [Delete(entry.key)])
        return self._store.get(entry.key)

    def _campaign(self) -> Entry | None:
        """Try to become the leader; the leader's key afterwards, whosever it is.

        A lease of ours from an earlier, unanswered campaign is used again: that campaign's put may still arrive, and then it
        must carry a lease that we keep or revoke.
        """
        lease = self._lease
        if lease is None or not self._renew(lease):
            sent = self._clock.monotonic()
            lease = self._store.grant_lease(self._ttl_s)
            with self._state:
                self._lease, self._deadline = lease, self._deadline_of(sent)
        value = encode(_Candidacy(self._candidate, self._clock.now()))
        try:
            self._store.transact([CreatedAt(self._keys.leader, 0)], [Put(self._keys.leader, value, lease)])
        except LeaseLost:
            self._forget_lease(lease)
            return None
        return self._store.get(self._keys.leader)

    def _hold(self, entry: Entry) -> Leadership | None:
        """The key is under our lease: the term is ours, if the deadline is not over or the lease can still be renewed."""
        held = self.leadership
        if held is not None and (held.term, held.value) == (entry.create_revision, entry.value):
            return held
        lease = self._lease
        if lease is None or (self._clock.monotonic() >= self._deadline and not self._renew(lease)):
            return None
        try:
            since = decode(_Candidacy, entry.value, entry.key).since
        except RecordMalformed as error:
            tell_once(entry, error)
            self._drop_lease()  # and the key with it: the next step campaigns anew
            return None
        with self._state:
            if self._lease != lease:  # lost meanwhile, as the renewing thread has found
                return None
            self._leadership = Leadership(entry.create_revision, since, self._keys.leader, entry.value)
        return self.leadership

    def _renew(self, lease: LeaseId) -> bool:
        sent = self._clock.monotonic()
        try:
            self._store.keep_alive(lease)
        except LeaseLost:
            self._forget_lease(lease)
            return False
        with self._state:
            if self._lease != lease:
                return False
            self._deadline = max(self._deadline, self._deadline_of(sent))
        return True

    def _deadline_of(self, sent: float) -> float:
        return sent + self._ttl_s - self._margin_s

    def _forget_term(self, held: Leadership | None = None) -> None:
        with self._state:
            if held is None or self._leadership == held:
                self._leadership = None

    def _forget_lease(self, lease: LeaseId) -> None:
        with self._state:
            if self._lease == lease:
                self._lease, self._leadership, self._deadline = None, None, float("-inf")

    def _drop_lease(self) -> None:
        """Forget our lease and revoke it. If etcd does not hear of it, it runs out: nobody renews it any more."""
        with self._state:
            lease = self._lease
            self._lease, self._leadership, self._deadline = None, None, float("-inf")
        if lease is not None:
            with suppress(StoreError):
                self._store.revoke_lease(lease)
