"""The store on a real etcd. Imports etcd3 and gRPC (38 MB, 0.13 s): only roles that talk to etcd import this module."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from scaler_plugin.coordination import etcd_errors
from scaler_plugin.coordination.etcd_connection import Access, Connection, Connections, Metadata, parse_endpoints
from scaler_plugin.coordination.etcd_rpc import grpc, rpc
from scaler_plugin.coordination.etcd_watch import StreamWatch, WatchStream, prefix_end
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
from scaler_plugin.errors import ConfigError, LeaseLost, StoreUnavailable

#: Keys per answer. Keeps one answer near half a megabyte, so that it fits into a fraction of the timeout on a busy etcd.
PAGE = 1000
#: A compaction between two pages takes the revision away; the read then begins anew.
READ_ATTEMPTS = 5


def open_store(
    endpoints: Sequence[str],
    *,
    ca: str | PathLike[str] | None = None,
    cert: str | PathLike[str] | None = None,
    key: str | PathLike[str] | None = None,
    user: str | None = None,
    password: str | None = None,
    timeout_s: float = 3.0,
) -> EtcdStore:
    """A store on these endpoints (``host:port``, or with ``http://`` or ``https://``). Nothing is sent before the first call.

    ``ca``, ``cert`` and ``key`` are PEM files; each call takes at most ``timeout_s`` over all endpoints.
    Raises :class:`~scaler_plugin.errors.ConfigError` for arguments that cannot work.
    """
    return EtcdStore(
        make_access(endpoints, ca=ca, cert=cert, key=key, user=user, password=password, timeout_s=timeout_s)
    )


def make_access(
    endpoints: Sequence[str],
    *,
    ca: str | PathLike[str] | None = None,
    cert: str | PathLike[str] | None = None,
    key: str | PathLike[str] | None = None,
    user: str | None = None,
    password: str | None = None,
    timeout_s: float = 3.0,
) -> Access:
    """What :func:`open_store` says, checked, for those who need etcd's other services. Raises ``ConfigError``."""
    if (cert is None) != (key is None):
        raise ConfigError("a client certificate for etcd needs both files; set cert and key")
    if (user is None) != (password is None):
        raise ConfigError("etcd needs both a user and a password, or neither; set both")
    access = Access(
        endpoints=parse_endpoints(endpoints, tls_files=ca is not None or cert is not None),
        ca=Path(ca) if ca is not None else None,
        cert=Path(cert) if cert is not None else None,
        key=Path(key) if key is not None else None,
        user=user,
        password=password,
        timeout_s=timeout_s,
    )
    access.check_files()
    return access


class EtcdStore:
    """:class:`~scaler_plugin.coordination.store.Store` on etcd 3.4 or newer. All methods may be called from any thread."""

    def __init__(self, access: Access) -> None:
        self._connections = Connections(access)
        self._watches = WatchStream(self._connections)

    def get(self, key: str) -> Entry | None:
        answer = self._kv("Range", rpc.RangeRequest(key=key.encode()), repeatable=True)
        return _entry(answer.kvs[0]) if answer.kvs else None

    def get_prefix(self, prefix: str) -> tuple[Entry, ...]:
        attempts = READ_ATTEMPTS
        while True:
            attempts -= 1
            try:
                return self._read_pages(prefix.encode())
            except grpc.RpcError as error:
                if not etcd_errors.compacted(error) or not attempts:
                    raise self._connections.refused(error) from error

    def _read_pages(self, prefix: bytes) -> tuple[Entry, ...]:
        entries: list[Entry] = []
        start, revision = prefix or b"\0", 0
        while True:
            request = rpc.RangeRequest(key=start, range_end=prefix_end(prefix), limit=PAGE, revision=revision)
            answer = self._ask_kv("Range", request, repeatable=True)
            entries.extend(_entry(pair) for pair in answer.kvs)
            if not answer.more:
                return tuple(entries)
            revision = revision or answer.header.revision
            start = answer.kvs[-1].key + b"\0"

    def transact(self, compare: Sequence[Comparison], writes: Sequence[Write]) -> Transaction:
        request = rpc.TxnRequest(
            compare=[_comparison(comparison) for comparison in compare],
            success=[_write(write) for write in writes],
        )
        answer = self._kv("Txn", request, repeatable=not writes)
        return Transaction(succeeded=answer.succeeded, revision=answer.header.revision)

    def grant_lease(self, ttl_s: int) -> LeaseId:
        # The id is chosen here, so that asking again after a lost answer does not leave a second lease behind.
        lease = secrets.randbits(62) + 1
        request = rpc.LeaseGrantRequest(TTL=ttl_s, ID=lease)

        def ask(connection: Connection, timeout_s: float, metadata: Metadata) -> None:
            try:
                connection.lease.LeaseGrant(request, timeout_s, metadata=metadata)
            except grpc.RpcError as error:
                if not etcd_errors.lease_exists(error):
                    raise

        self._call(ask, repeatable=True)
        return LeaseId(lease)

    def keep_alive(self, lease: LeaseId) -> None:
        request = rpc.LeaseKeepAliveRequest(ID=lease)

        def ask(connection: Connection, timeout_s: float, metadata: Metadata) -> int:
            # etcd offers this as a stream only; here it carries one question and one answer.
            stream = connection.lease.LeaseKeepAlive(iter((request,)), timeout=timeout_s, metadata=metadata)
            try:
                return next((int(answer.TTL) for answer in stream), -1)
            finally:
                stream.cancel()

        ttl_s = self._call(ask, repeatable=True)
        if ttl_s < 0:
            raise StoreUnavailable(f"etcd at {self._connections.access} hung up while a lease was renewed; try again")
        if ttl_s == 0:
            raise LeaseLost(f"the lease is gone from etcd at {self._connections.access}; register again")

    def revoke_lease(self, lease: LeaseId) -> None:
        def ask(connection: Connection, timeout_s: float, metadata: Metadata) -> None:
            try:
                connection.lease.LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease), timeout_s, metadata=metadata)
            except grpc.RpcError as error:
                if not etcd_errors.lease_missing(error):
                    raise

        self._call(ask, repeatable=True)

    def watch(self, prefix: str, on_change: Callable[[], None]) -> StreamWatch:
        """See the port. While etcd is away this waits for the timeout, and then watches as soon as etcd is back."""
        return self._watches.add(prefix, on_change, self._connections.access.timeout_s)

    def close(self) -> None:
        self._watches.close()
        self._connections.close()

    def _kv(self, method: str, request: Any, *, repeatable: bool) -> Any:
        try:
            return self._ask_kv(method, request, repeatable=repeatable)
        except grpc.RpcError as error:
            raise self._connections.refused(error) from error

    def _ask_kv(self, method: str, request: Any, *, repeatable: bool) -> Any:
        return self._connections.call(
            lambda connection, timeout_s, metadata: getattr(connection.kv, method)(
                request, timeout_s, metadata=metadata
            ),
            repeatable=repeatable,
        )

    def _call(self, ask: Callable[[Connection, float, Metadata], Any], *, repeatable: bool) -> Any:
        try:
            return self._connections.call(ask, repeatable=repeatable)
        except grpc.RpcError as error:
            raise self._connections.refused(error) from error


def _entry(pair: Any) -> Entry:
    # Whoever put something else than text there: it is a malformed record and no failure of etcd.
    return Entry(
        key=pair.key.decode(errors="replace"),
        value=pair.value.decode(errors="replace"),
        create_revision=pair.create_revision,
        mod_revision=pair.mod_revision,
        lease=LeaseId(pair.lease) if pair.lease else None,
    )


def _comparison(comparison: Comparison) -> Any:
    key = comparison.key.encode()
    if isinstance(comparison, CreatedAt):
        return rpc.Compare(
            result=rpc.Compare.EQUAL, target=rpc.Compare.CREATE, key=key, create_revision=comparison.revision
        )
    if isinstance(comparison, ValueIs):
        return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.VALUE, key=key, value=comparison.value.encode())
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=key, mod_revision=comparison.revision)


def _write(write: Write) -> Any:
    if isinstance(write, Put):
        put = rpc.PutRequest(key=write.key.encode(), value=write.value.encode(), lease=write.lease or 0)
        return rpc.RequestOp(request_put=put)
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=write.key.encode()))
