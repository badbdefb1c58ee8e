"""What a member tells only over HTTP: its quota and the space in use (its metrics), and how long its certificate is good."""

from __future__ import annotations

import http.client
import re
import ssl
from dataclasses import dataclass
from datetime import datetime, timezone

from scaler_plugin.coordination.etcd_connection import Access, Endpoint

_LONGEST = 4_000_000
_QUOTA = "etcd_server_quota_backend_bytes"
_IN_USE = "etcd_mvcc_db_total_size_in_use_in_bytes"


@dataclass(frozen=True)
class MemberMetrics:
    quota: int | None = None
    size_in_use: int | None = None
    certificate_ends: datetime | None = None


def read_metrics(access: Access, endpoint: Endpoint) -> MemberMetrics:
    """Whatever can be read; a member that serves its metrics elsewhere (``--listen-metrics-urls``) tells only its certificate."""
    connection: http.client.HTTPConnection
    ends: datetime | None = None
    try:
        if endpoint.tls:
            context = ssl.create_default_context(cafile=str(access.ca) if access.ca else None)
            if access.cert and access.key:
                context.load_cert_chain(access.cert, access.key)
            connection = http.client.HTTPSConnection(
                endpoint.host, endpoint.port, timeout=access.timeout_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=access.timeout_s)
    except OSError:
        return MemberMetrics()
    try:
        connection.connect()
        if isinstance(connection.sock, ssl.SSLSocket):
            ends = _end_of(connection.sock)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read(_LONGEST).decode(errors="replace") if answer.status == 200 else ""
        return MemberMetrics(_value(text, _QUOTA), _value(text, _IN_USE), ends)
    except (OSError, http.client.HTTPException):
        return MemberMetrics(certificate_ends=ends)
    finally:
        connection.close()


def _end_of(connection: ssl.SSLSocket) -> datetime | None:
    certificate = connection.getpeercert() or {}
    ends = certificate.get("notAfter")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), timezone.utc) if isinstance(ends, str) else None


def _value(text: str, name: str) -> int | None:
    found = re.search(rf"^{name} ([0-9.e+]+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else None
