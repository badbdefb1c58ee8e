"""The store in memory, for the simulated world and for tests: same contract, no threads, time from the given clock.

``MemoryStore`` is the etcd; ``client(name)`` is one machine's connection to it, which a test can cut, make deaf or let fail.
Leases expire by the clock's monotonic time, at the next call of anybody or at :meth:`MemoryStore.tick`; whoever moves
the clock asks :meth:`MemoryStore.next_expiry` when that is due. It may be used from several threads.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum

from scaler_plugin.coordination.store import (
    Comparison,
    CreatedAt,
    Entry,
    LeaseId,
    Put,
    Transaction,
    ValueIs,
    Write,
)
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import LeaseLost, StoreRefused, StoreUnavailable

#: etcd's own limit (``--max-txn-ops``).
MOST_WRITES = 128


class Cut(Enum):
    """How a client's calls fail: lost on the way there, or on the way back, after they had their effect."""

    BEFORE_EFFECT = "before"
    AFTER_EFFECT = "after"


@dataclass
class _Lease:
    ttl_s: int
    expires_at: float  # on the clock's monotonic time


class MemoryWatch:
    def __init__(self, client: MemoryClient, prefix: str, on_change: Callable[[], None]) -> None:
        self.prefix = prefix
        self.on_change = on_change
        self._client = client

    def cancel(self) -> None:
        self._client.forget(self)


class MemoryStore:
    """The data. Use :meth:`client` to talk to it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._clients: dict[str, MemoryClient] = {}
        self._next_lease = 1
        self._stopped = False
        self.wiped = 0  # how often it was set up anew
        self._reset()

    def _reset(self) -> None:
        self._revision = 1  # that of an empty etcd
        self._entries: dict[str, Entry] = {}
        self._keys: list[str] = []  # sorted
        self._leases: dict[LeaseId, _Lease] = {}
        # No lease runs out before this; renewals only move that further away, so it need not be found anew with each.
        self._earliest = float("inf")

    def client(self, name: str) -> MemoryClient:
        """The connection of the machine ``name``; the same object for the same name."""
        with self._lock:
            if name not in self._clients:
                self._clients[name] = MemoryClient(self, name)
            return self._clients[name]

    def wipe(self) -> None:
        """An etcd that was set up anew: no keys, no leases, the first revision. Watches break and are set up again."""
        with self._lock:
            self.wiped += 1
            self._reset()
        self._wake(None)

    def stop(self) -> None:
        """No client gets an answer until :meth:`start`."""
        self._stopped = True

    def start(self) -> None:
        """Back again. Like a restarted etcd, every lease gets its full time anew and every watch is called once."""
        with self._lock:
            self._stopped = False
            for lease in self._leases.values():
                lease.expires_at = self._clock.monotonic() + lease.ttl_s
        self._wake(None)

    def next_expiry(self) -> float | None:
        """The earliest moment, in the clock's monotonic time, at which a lease may run out (it may have been renewed since)."""
        with self._lock:
            return self._earliest if self._leases and not self._stopped else None

    def tick(self) -> None:
        """Let the leases expire whose time has come, and wake who watches their keys."""
        with self._lock:
            if self._stopped:
                return
            now = self._clock.monotonic()
            if now < self._earliest:
                return
            due = sorted(lease_id for lease_id, lease in self._leases.items() if lease.expires_at <= now)
            changed = [key for lease_id in due for key in self._end_lease(lease_id)]
            self._earliest = min((lease.expires_at for lease in self._leases.values()), default=float("inf"))
        self._wake(changed)

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def leases(self) -> tuple[LeaseId, ...]:
        """The leases alive now."""
        self.tick()
        with self._lock:
            return tuple(sorted(self._leases))

    def read(self, prefix: str) -> tuple[Entry, ...]:
        with self._lock:
            first = bisect_left(self._keys, prefix)
            found: list[Entry] = []
            for key in self._keys[first:]:
                if not key.startswith(prefix):
                    break
                found.append(self._entries[key])
            return tuple(found)

    def read_key(self, key: str) -> Entry | None:
        with self._lock:
            return self._entries.get(key)

    def transact(self, compare: Sequence[Comparison], writes: Sequence[Write]) -> Transaction:
        with self._lock:
            keys = [write.key for write in writes]
            if len(set(keys)) < len(keys) or len(keys) > MOST_WRITES or "" in keys:
                raise StoreRefused(
                    "the store in memory refused the transaction (a key twice, an empty key, or too many writes); "
                    "nothing was written"
                )
            if not all(self._holds(comparison) for comparison in compare):
                return Transaction(False, self._revision)
            for write in writes:
                if isinstance(write, Put) and write.lease is not None and write.lease not in self._leases:
                    raise LeaseLost(
                        "the lease is gone from the store in memory, and every key under it; register again"
                    )
            changed = [write.key for write in writes if isinstance(write, Put) or write.key in self._entries]
            if changed:
                self._revision += 1
            for write in writes:
                self._put(write) if isinstance(write, Put) else self._remove(write.key)
            answer = Transaction(True, self._revision)
        self._wake(changed)
        return answer

    def grant_lease(self, ttl_s: int) -> LeaseId:
        if ttl_s <= 0:
            raise StoreRefused(f"the store in memory refused a lease of {ttl_s} s; ask for one second or more")
        with self._lock:
            lease_id = LeaseId(self._next_lease)
            self._next_lease += 1
            self._leases[lease_id] = _Lease(ttl_s, self._clock.monotonic() + ttl_s)
            self._earliest = min(self._earliest, self._leases[lease_id].expires_at)
            return lease_id

    def keep_alive(self, lease: LeaseId) -> None:
        with self._lock:
            if lease not in self._leases:
                raise LeaseLost("the lease is gone from the store in memory; register again")
            self._leases[lease].expires_at = self._clock.monotonic() + self._leases[lease].ttl_s

    def revoke_lease(self, lease: LeaseId) -> None:
        with self._lock:
            changed = self._end_lease(lease)
        self._wake(changed)

    def _holds(self, comparison: Comparison) -> bool:
        entry = self._entries.get(comparison.key)
        if isinstance(comparison, ValueIs):
            return entry is not None and entry.value == comparison.value
        if entry is None:
            return comparison.revision == 0
        actual = entry.create_revision if isinstance(comparison, CreatedAt) else entry.mod_revision
        return actual == comparison.revision

    def _put(self, put: Put) -> None:
        old = self._entries.get(put.key)
        if old is None:
            insort(self._keys, put.key)
            self._entries[put.key] = Entry(put.key, put.value, self._revision, self._revision, put.lease)
        else:
            self._entries[put.key] = replace(old, value=put.value, mod_revision=self._revision, lease=put.lease)

    def _remove(self, key: str) -> None:
        if self._entries.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]

    def _end_lease(self, lease: LeaseId) -> list[str]:
        self._leases.pop(lease, None)
        keys = [key for key, entry in self._entries.items() if entry.lease == lease]
        if keys:
            self._revision += 1
        for key in keys:
            self._remove(key)
        return keys

    def _wake(self, changed: Sequence[str] | None) -> None:
        """Call the watches of these keys (``None``: all), outside the lock and in the order in which they were made."""
        if changed is None or changed:
            for client in tuple(self._clients.values()):
                client.wake(changed)


class MemoryClient:
    """:class:`~scaler_plugin.coordination.store.Store`, as one machine sees it, with the faults of its connection."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self.name = name
        self._store = store
        self._watches: list[MemoryWatch] = []
        self._cut: Cut | None = None
        self._failures: list[Cut] = []
        self._deaf = False

    def partition(self, cut: Cut = Cut.BEFORE_EFFECT) -> None:
        """Every call fails from now on, and no watch is heard, until :meth:`heal`."""
        self._cut = cut

    def heal(self) -> None:
        """The connection works again; every watch is called once."""
        self._cut = None
        self._deaf = False
        self.wake(None)

    def fail_next(self, cut: Cut, calls: int = 1) -> None:
        """The next calls fail so."""
        self._failures.extend([cut] * calls)

    def deafen(self) -> None:
        """Wake-up calls get lost, though calls work, until :meth:`heal`."""
        self._deaf = True

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Around the effect of one call: time passes first, and the call is lost where a fault says so."""
        cut = self._failures.pop(0) if self._failures else self._cut
        if self._store.stopped or cut is Cut.BEFORE_EFFECT:
            raise self._unavailable()
        self._store.tick()
        yield
        if cut is Cut.AFTER_EFFECT:
            raise self._unavailable()

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the store in memory did not answer {self.name}: it was stopped or cut off; what was asked may have happened"
        )

    def get(self, key: str) -> Entry | None:
        with self._connection():
            return self._store.read_key(key)

    def get_prefix(self, prefix: str) -> tuple[Entry, ...]:
        with self._connection():
            return self._store.read(prefix)

    def transact(self, compare: Sequence[Comparison], writes: Sequence[Write]) -> Transaction:
        with self._connection():
            return self._store.transact(compare, writes)

    def grant_lease(self, ttl_s: int) -> LeaseId:
        with self._connection():
            return self._store.grant_lease(ttl_s)

    def keep_alive(self, lease: LeaseId) -> None:
        with self._connection():
            self._store.keep_alive(lease)

    def revoke_lease(self, lease: LeaseId) -> None:
        with self._connection():
            self._store.revoke_lease(lease)

    def watch(self, prefix: str, on_change: Callable[[], None]) -> MemoryWatch:
        watch = MemoryWatch(self, prefix, on_change)
        self._watches.append(watch)
        return watch

    def close(self) -> None:
        self._watches.clear()

    def forget(self, watch: MemoryWatch) -> None:
        if watch in self._watches:
            self._watches.remove(watch)

    def wake(self, changed: Sequence[str] | None) -> None:
        if self._deaf or self._cut is not None or self._store.stopped:
            return
        for watch in tuple(self._watches):
            if changed is None or any(key.startswith(watch.prefix) for key in changed):
                watch.on_change()
