"""The nodes of the cluster: each keeps its own record in etcd under its own lease; if the record is there, the sidecar lives.

Guarantees: a record is written when it changes and not otherwise; one that is lost (lease expired, etcd set up anew, deleted by
mistake) or spoilt by other hands is back with the next :meth:`Registry.publish` or :meth:`Registry.renew`; a node that was
condemned never registers.
Not guaranteed: that a node without a record is dead; it may be cut off from etcd.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.condemned import not_condemned
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.malformed import decode_all, tell_once
from scaler_plugin.coordination.store import Entry, LeaseId, Put, Store
from scaler_plugin.core.model import Node
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import LeaseLost, RecordMalformed, StoreError


class Lock(Protocol):
    """``threading.Lock``, or its like in the simulated world, which has threads of its own."""

    def acquire(self, blocking: bool = ..., /) -> bool: ...

    def release(self) -> None: ...

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Condemned(StoreError):
    """The leader has marked this instance for termination because it did not register in time; it must not start to work."""


class Registry:
    """One node's record. May be used from several threads; a renewal in its own thread keeps the lease alive."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        ttl_s: int = 30,
        make_lock: Callable[[], Lock] = threading.Lock,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._ttl_s = ttl_s
        self._lock = make_lock()
        self._lease: LeaseId | None = None
        self._node: Node | None = None  # as published last
        self._written: str | None = None  # what etcd holds, as far as we know
        self._alive_at = float("-inf")  # monotonic time of the last sign that the lease lives

    @property
    def renew_every_s(self) -> float:
        return self._ttl_s / 3

    @property
    def lease(self) -> LeaseId | None:
        """The lease of the node's record; ``None`` while it is not registered."""
        return self._lease

    def publish(self, node: Node) -> None:
        """Make etcd hold this record. No call to etcd if it does already.

        Raises :class:`Condemned` and :class:`~scaler_plugin.errors.StoreError`; the next call tries again.
        """
        with self._lock:
            self._node = node
            text = encode(node)
            if self._lease is None or text != self._written:
                self._write(node, text)
            elif self._clock.monotonic() - self._alive_at >= self._ttl_s:
                self._renew(node)  # nobody has renewed for a whole TTL: the record may be gone

    def doubt(self) -> None:
        """Something else than what was published last may be in etcd: the next :meth:`publish` writes again."""
        with self._lock:
            self._written = None

    def renew(self) -> None:
        """Renew the lease and see that the record is still there. Call this every ``renew_every_s``.

        While a :meth:`publish` is under way it is skipped rather than waited for: the thread that renews has the leader's lease
        to keep alive too, and two more renewals fit into the TTL.
        """
        if not self._lock.acquire(False):
            return
        try:
            if self._lease is not None and self._node is not None:
                self._renew(self._node)
        finally:
            self._lock.release()

    def leave(self) -> None:
        """Take the record away. Never raises; if etcd does not hear of it, the lease runs out."""
        with self._lock:
            lease, self._lease = self._lease, None
            self._node = self._written = None
            if lease is not None:
                with suppress(StoreError):
                    self._store.revoke_lease(lease)

    def _renew(self, node: Node) -> None:
        lease = self._lease
        if lease is None:
            return
        sent = self._clock.monotonic()
        try:
            self._store.keep_alive(lease)
        except LeaseLost:
            self._lose()
            self._write(node, encode(node))
            return
        self._alive_at = sent
        entry = self._store.get(self._keys.node(node.instance_id))
        # A value that differs may stand: ``retiring`` is written beside this class, by the turn to retire. But one that nobody
        # can read may not, nor one that has lost its lease (a plain put by hand does that) and would outlive the node.
        if entry is None or entry.lease != lease or not decode_all(Node, [entry]):
            self._write(node, encode(node))

    def _write(self, node: Node, text: str) -> None:
        # Until the answer is here, etcd may hold the old text or the new one.
        self._written = None
        try:
            self._put(node, text)
        except LeaseLost:
            self._lose()
            self._put(node, text)

    def _put(self, node: Node, text: str) -> None:
        if self._lease is None:
            sent = self._clock.monotonic()
            self._lease = self._store.grant_lease(self._ttl_s)
            self._alive_at = sent
        put = Put(self._keys.node(node.instance_id), text, self._lease)
        if not self._store.transact([not_condemned(self._keys, node.instance_id)], [put]).succeeded:
            raise Condemned(
                f"instance {node.instance_id} did not register in time and is about to be terminated; it must not work"
            )
        self._written = text

    def _lose(self) -> None:
        self._lease = self._written = None


def read_nodes(
    store: Store, keys: Keys, on_malformed: Callable[[Entry, RecordMalformed], None] = tell_once
) -> tuple[Node, ...]:
    """All registered nodes in order of instance id. A malformed record is skipped and given to ``on_malformed``."""
    return decode_all(Node, store.get_prefix(keys.nodes), on_malformed)
