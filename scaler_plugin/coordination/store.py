"""The port to etcd: keys, transactions, leases and a wake-up call. Two adapters pass one contract test suite.

What it guarantees: a transaction is atomic and linearizable; a key under a lease disappears when the lease does.
What it does not: after :class:`~scaler_plugin.errors.StoreUnavailable` a write may or may not have been applied, so every
caller must be able to find out by reading; a lease alone gives no mutual exclusion, hence the fence
(:class:`CreatedAt` on the leader's key) in every transaction of a leader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol, TypeAlias

LeaseId = NewType("LeaseId", int)


@dataclass(frozen=True)
class Entry:
    """One key as read. ``create_revision`` is the store's revision at which the key came into being."""

    key: str
    value: str
    create_revision: int
    mod_revision: int
    lease: LeaseId | None = None


@dataclass(frozen=True)
class CreatedAt:
    """Comparison: the key's create revision equals ``revision`` (0: the key does not exist)."""

    key: str
    revision: int


@dataclass(frozen=True)
class ModifiedAt:
    """Comparison: the key's mod revision equals ``revision`` (0: the key does not exist)."""

    key: str
    revision: int


@dataclass(frozen=True)
class ValueIs:
    """Comparison: the key exists and holds exactly this value."""

    key: str
    value: str


@dataclass(frozen=True)
class Put:
    key: str
    value: str
    lease: LeaseId | None = None


@dataclass(frozen=True)
class Delete:
    key: str


Comparison: TypeAlias = CreatedAt | ModifiedAt | ValueIs
Write: TypeAlias = Put | Delete


@dataclass(frozen=True)
class Transaction:
    """The outcome of :meth:`Store.transact`; ``revision`` is the store's revision after it (of the writes, if they were made)."""

    succeeded: bool
    revision: int


class Watch(Protocol):
    def cancel(self) -> None:
        """Stop calling back. Harmless when called twice."""


class Store(Protocol):
    """Raises :class:`~scaler_plugin.errors.StoreUnavailable` and :class:`~scaler_plugin.errors.StoreRefused` from every method."""

    def get(self, key: str) -> Entry | None:
        """The key, or ``None``. Linearizable."""

    def get_prefix(self, prefix: str) -> tuple[Entry, ...]:
        """Every key that starts with ``prefix``, in order of key, all as of one revision."""

    def transact(self, compare: Sequence[Comparison], writes: Sequence[Write]) -> Transaction:
        """Make all writes if all comparisons hold, else none. A put under a lease that is gone raises ``LeaseLost``."""

    def grant_lease(self, ttl_s: int) -> LeaseId:
        """A new lease that lives ``ttl_s`` seconds unless kept alive."""

    def keep_alive(self, lease: LeaseId) -> None:
        """Renew the lease for its full time, once. Raises ``LeaseLost`` if it is gone."""

    def revoke_lease(self, lease: LeaseId) -> None:
        """End the lease and delete every key under it. A lease that is gone is no error."""

    def watch(self, prefix: str, on_change: Callable[[], None]) -> Watch:
        """Call ``on_change`` (from any thread) soon after a key under the prefix changes.

        Only a wake-up call: changes may be merged, and none is promised across a broken connection (the adapter re-watches
        by itself and then calls once). Whoever is woken reads the state.
        """

    def close(self) -> None:
        """Let go of connections and threads."""
