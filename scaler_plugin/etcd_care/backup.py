"""Takes a snapshot of etcd's whole data into a file that ``etcdctl snapshot restore`` reads.

Guarantees: the file is readable by its owner alone; it appears only once it is whole and checked (etcd's own checksum, the
database's mark). Not guaranteed: that the configuration in it is still the one you want when you restore it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scaler_plugin.coordination.etcd_connection import Access, Connection, Connections, Metadata
from scaler_plugin.coordination.etcd_rpc import grpc, rpc
from scaler_plugin.errors import ConfigError, HostError, StoreError, StoreRefused

#: A full etcd has 2 GB; over a slow line that takes some minutes.
TIMEOUT_S = 900.0

_DIGEST_BYTES = hashlib.sha256().digest_size
#: bbolt writes this at the start of its first page's body (``db.go``: ``magic``), in the machine's byte order: little endian.
_BOLT_MARK, _BOLT_MARK_AT = (0xED0CDAED).to_bytes(4, "little"), 16


@dataclass(frozen=True)
class Backup:
    path: Path
    size: int


def take_backup(access: Access, path: Path, overwrite: bool = False) -> Backup:
    """Write the snapshot to ``path``. Raises ``StoreError``, ``HostError`` for the file, ``ConfigError`` if it exists."""
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists, and nothing was written; choose another name, or give --force.")
    scratch = path.with_name(f".{path.name}.part")
    try:
        _download(access, scratch)
        check_snapshot(scratch)
        scratch.replace(path)
        return Backup(path, path.stat().st_size)
    except OSError as error:
        raise HostError(
            f"The backup could not be written to {path}: {error.strerror}. Check folder and space."
        ) from error
    finally:
        scratch.unlink(missing_ok=True)


def check_snapshot(path: Path) -> None:
    """Raise ``StoreError`` unless the file is a whole snapshot: a bbolt database, and behind it the SHA-256 that etcd appended."""
    body = path.stat().st_size - _DIGEST_BYTES
    digest = hashlib.sha256()
    with path.open("rb") as file:
        head = file.read(_BOLT_MARK_AT + len(_BOLT_MARK))
        if body <= 0 or head[_BOLT_MARK_AT:] != _BOLT_MARK:
            raise StoreError("What etcd sent is not a snapshot of its database; nothing was kept. Try another member.")
        file.seek(0)
        for chunk in _chunks(file, body):
            digest.update(chunk)
        if file.read() != digest.digest():
            raise StoreError(
                "The snapshot was damaged on the way (its checksum is wrong); nothing was kept. Try again."
            )


def _chunks(file: object, size: int) -> Iterator[bytes]:
    left = size
    while left > 0:
        chunk = file.read(min(left, 1 << 20))  # type: ignore[attr-defined]
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


def _download(access: Access, path: Path) -> None:
    connections = Connections(access)

    def ask(connection: Connection, timeout_s: float, metadata: Metadata) -> None:
        # Opened in the attempt: a second one, at the next endpoint, begins anew.
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            stream = rpc.MaintenanceStub(connection.channel).Snapshot(
                rpc.SnapshotRequest(), timeout=TIMEOUT_S, metadata=metadata
            )
            try:
                for part in stream:
                    file.write(part.blob)
            except grpc.RpcError as error:
                # etcd gives this refusal the code "unknown", which would read as "did not answer".
                if any(words in (error.details() or "") for words in ("permission denied", "user name is empty")):
                    raise _root_only(access) from error
                raise
            file.flush()
            os.fsync(descriptor)

    try:
        connections.call(ask, repeatable=True)
    except grpc.RpcError as error:
        raise connections.refused(error) from error
    finally:
        connections.close()


def _root_only(access: Access) -> StoreRefused:
    return StoreRefused(
        f"etcd at {access} gives its whole data to its root user only. Give that user's certificate: --identity with the "
        "folder clients/root that `scaler-sidecar etcd certs` made."
    )
