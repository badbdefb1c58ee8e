"""What etcd's and gRPC's error codes mean for a caller, as sentences.

The line that matters runs between "refused, so nothing was written" and "unknown, so it may have been". Codes are those of
etcd's ``api/v3rpc/rpctypes/error.go``.
"""

from __future__ import annotations

from typing import Any

from scaler_plugin.coordination.etcd_rpc import grpc
from scaler_plugin.errors import LeaseLost, StoreError, StoreRefused, StoreUnavailable

_CODE = grpc.StatusCode

#: The call was lost on the way or in the server: nobody knows whether it had its effect.
_UNKNOWN_OUTCOME = frozenset(
    {_CODE.UNAVAILABLE, _CODE.DEADLINE_EXCEEDED, _CODE.CANCELLED, _CODE.INTERNAL, _CODE.UNKNOWN, _CODE.ABORTED}
)


def outcome_unknown(error: Any) -> bool:
    return error.code() in _UNKNOWN_OUTCOME


def never_sent(error: Any) -> bool:
    """True when gRPC found no connection at all, so that even a write may be sent again."""
    return bool(error.code() is _CODE.UNAVAILABLE and (error.details() or "").startswith("failed to connect"))


def electing(error: Any) -> bool:
    """True when a member that lives says that its cluster has no leader at the moment; every other member would say the same."""
    return error.code() is _CODE.UNAVAILABLE and (error.details() or "") in (
        "etcdserver: leader changed",
        "etcdserver: no leader",
    )


def token_expired(error: Any) -> bool:
    """etcd's tokens live five minutes by default, and a simple token dies with the member's restart."""
    details = error.details() or ""
    return "invalid auth token" in details or "revision of auth store is old" in details


def lease_exists(error: Any) -> bool:
    return error.code() is _CODE.FAILED_PRECONDITION and "lease already exists" in (error.details() or "")


def lease_missing(error: Any) -> bool:
    return error.code() is _CODE.NOT_FOUND and "lease" in (error.details() or "")


def compacted(error: Any) -> bool:
    return error.code() is _CODE.OUT_OF_RANGE


def unavailable(endpoints: str, timeout_s: float, error: Any, tls: bool = True) -> StoreUnavailable:
    """``tls`` false: the endpoints were asked in the clear, and no TLS file was given."""
    details = (error.details() or error.code().name).strip()
    lowered = details.lower()
    if any(word in lowered for word in ("ssl", "tls", "certificate", "handshake")):
        advice = (
            "check the CA file, the client's certificate and key, and that the server's certificate names this host"
        )
    elif error.code() is _CODE.DEADLINE_EXCEEDED:
        advice = "check that a majority of its members runs and that this machine may reach them"
    else:
        advice = "check that it runs, that the endpoints are right and that this machine may reach them"
    if not tls and "socket closed" in lowered:
        advice += (
            "; or it may speak TLS only: give --config, --identity or SCALER_ETCD_CA, SCALER_ETCD_CERT, SCALER_ETCD_KEY"
        )
    took = f"within {timeout_s:g} s " if error.code() is _CODE.DEADLINE_EXCEEDED else ""
    return StoreUnavailable(f"etcd at {endpoints} did not answer {took}({details}); {advice}")


def refused(endpoints: str, user: str | None, error: Any) -> StoreError:
    details = (error.details() or error.code().name).strip()
    if lease_missing(error):
        return LeaseLost(f"the lease is gone from etcd at {endpoints}, and every key under it; register again")
    if "invalid user ID or password" in details or "invalid auth token" in details:
        return StoreRefused(
            f"etcd at {endpoints} refused user {user!r} or the password; check both in the configuration"
        )
    if "user name is empty" in details:
        return StoreRefused(f"etcd at {endpoints} asks for a user and a password; set etcd.user and etcd.password")
    if error.code() is _CODE.PERMISSION_DENIED:
        return StoreRefused(
            f"etcd at {endpoints} does not permit this to user {user!r} ({details}); grant its role read and write access "
            "to the cluster's prefix"
        )
    if "database space exceeded" in details:
        return StoreRefused(
            f"etcd at {endpoints} is full and takes no writes; compact and defragment it, then `etcdctl alarm disarm`"
        )
    return StoreRefused(f"etcd at {endpoints} refused the request ({details}); nothing was written")
