"""Asks every member of an etcd cluster how it is. Changes nothing, and takes no longer than two of the connection's timeouts."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from scaler_plugin.coordination.etcd_connection import Access, Connections, Endpoint
from scaler_plugin.coordination.etcd_rpc import grpc, rpc
from scaler_plugin.errors import StoreError, StoreRefused
from scaler_plugin.etcd_care.health import EtcdHealth, MemberHealth
from scaler_plugin.etcd_care.metrics import read_metrics

T = TypeVar("T")

#: Who may read everything, by etcd's own rule.
ROOT = "root"


@dataclass(frozen=True)
class _Listed:
    """A member as the cluster lists it."""

    id: int
    name: str
    client_urls: tuple[str, ...]


def survey(access: Access, prefix: str) -> EtcdHealth:
    """Look at the cluster. ``prefix`` is the part of the keys that this login must be able to use.

    Raises ``StoreError`` when no member answers at all, ``ConfigError`` for TLS files that cannot be read.
    """
    listed = _members(access)
    with ThreadPoolExecutor(max(1, len(access.endpoints) + len(listed))) as threads:
        configured = list(threads.map(lambda endpoint: _look(access, endpoint), access.endpoints))
        known = {id_ for id_, _ in configured if id_}
        unknown = [member for member in listed if member.id not in known and member.client_urls]
        tls = any(endpoint.tls for endpoint in access.endpoints)
        others = list(
            threads.map(lambda member: _look(access, Endpoint.parse(member.client_urls[0], tls), member.name), unknown)
        )
    names = {member.id: member.name for member in listed}
    looked = [(id_, replace(health, name=names.get(id_, health.name))) for id_, health in configured]
    members: dict[int | str, MemberHealth] = {}
    for id_, health in looked:
        # A silent endpoint is shown only if it stands for a member that is not answering under another one.
        if id_ or not listed:
            members.setdefault(id_ or health.endpoint, health)
    for member, (_, health) in zip(unknown, others, strict=True):
        members[member.id] = health
    return EtcdHealth(
        members=tuple(sorted(members.values(), key=lambda member: member.name)),
        alarms=_alarms(access, names),
        configured=len([health for _, health in configured if health.answers]) or 1,
        encrypted=all(endpoint.tls for endpoint in access.endpoints),
        asks_who=_asks_who(access),
        on_loopback=_on_loopback(access, listed),
        reads_all=_may_read(access, "/"),
        as_root=_user_of(access) == ROOT,
        prefix_refused=_prefix_refused(access, prefix),
        client_certificate_ends=_client_certificate_ends(access.cert),
    )


def _members(access: Access) -> tuple[_Listed, ...]:
    try:
        answer = _ask(access, lambda channel: rpc.ClusterStub(channel).MemberList, rpc.MemberListRequest())
    except StoreRefused:
        return ()  # newer versions tell it only to a login; what the endpoints say must do
    return tuple(_Listed(m.ID, m.name or f"member {m.ID:x}", tuple(m.clientURLs)) for m in answer.members)


def _look(access: Access, endpoint: Endpoint, name: str = "") -> tuple[int, MemberHealth]:
    """One member's id, 0 if it does not answer, and how it is."""
    alone = replace(access, endpoints=(endpoint,))
    shown = f"{endpoint.host}:{endpoint.port}"
    try:
        status = _ask(alone, lambda channel: rpc.MaintenanceStub(channel).Status, rpc.StatusRequest())
    except StoreError as error:
        return 0, MemberHealth(name or shown, shown, failure=str(error).partition(";")[0])
    metrics = read_metrics(alone, endpoint)
    member = int(status.header.member_id)
    return member, MemberHealth(
        name or shown,
        shown,
        version=str(status.version),
        leads=status.leader == member,
        knows_leader=bool(status.leader),
        size=int(status.dbSize),
        size_in_use=metrics.size_in_use,
        quota=metrics.quota,
        certificate_ends=metrics.certificate_ends,
    )


def _alarms(access: Access, names: dict[int, str]) -> tuple[str, ...]:
    request = rpc.AlarmRequest(action=rpc.AlarmRequest.GET)
    try:
        answer = _ask(access, lambda channel: rpc.MaintenanceStub(channel).Alarm, request)
    except StoreRefused:
        return ()  # for root's eyes in some versions; a full etcd shows in its size as well
    kinds = {rpc.NOSPACE: "NOSPACE", rpc.CORRUPT: "CORRUPT"}
    return tuple(
        f"{names.get(alarm.memberID, 'a member')}: {kinds.get(alarm.alarm, 'unknown')}" for alarm in answer.alarms
    )


def _asks_who(access: Access) -> bool:
    """Whether authentication is on. No login shows it: root may read everything, and where it is off anybody is like root.

    So etcd is asked to authenticate nobody, which it answers in one way where it is on and in another where it is off.
    """
    try:
        _ask(access, lambda channel: rpc.AuthStub(channel).Authenticate, rpc.AuthenticateRequest())
    except StoreError as error:
        return "authentication is not enabled" not in str(error)
    return True


def _on_loopback(access: Access, listed: tuple[_Listed, ...]) -> bool:
    """An endpoint on loopback may be a tunnel's end, so the addresses that its members tell count, too."""
    told = [urlsplit(url).hostname or "" for member in listed for url in member.client_urls]
    hosts = [*(endpoint.host for endpoint in access.endpoints), *told]
    return all(host == "localhost" or _is_loopback(host) for host in hosts)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _may_read(access: Access, key: str) -> bool:
    try:
        _ask(access, lambda channel: rpc.KVStub(channel).Range, rpc.RangeRequest(key=key.encode()))
    except StoreError:
        return False
    return True


def _prefix_refused(access: Access, prefix: str) -> str:
    """Why this login cannot read under the prefix; empty if it can."""
    try:
        key = f"/{prefix.strip('/')}/".encode()
        _ask(access, lambda channel: rpc.KVStub(channel).Range, rpc.RangeRequest(key=key))
    except StoreError as error:
        text = str(error)
        return f"{text[0].upper()}{text[1:]}."
    return ""


def _ask(access: Access, method: Callable[[Any], Any], request: Any) -> Any:
    """One call on a connection of its own. Raises ``StoreError``."""
    connections = Connections(access)
    try:
        return connections.call(
            lambda connection, timeout_s, metadata: method(connection.channel)(request, timeout_s, metadata=metadata),
            repeatable=True,
        )
    except grpc.RpcError as error:
        raise connections.refused(error) from error
    finally:
        connections.close()


def _user_of(access: Access) -> str:
    if access.user:
        return access.user
    if access.cert is None:
        return ""
    try:
        from cryptography import x509  # noqa: PLC0415  (an extra: without it the end of the certificate is not looked at)
        from cryptography.x509.oid import NameOID  # noqa: PLC0415
    except ImportError:
        return ""
    names = x509.load_pem_x509_certificate(access.cert.read_bytes()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _client_certificate_ends(certificate: Path | None) -> datetime | None:
    if certificate is None:
        return None
    try:
        from cryptography import x509  # noqa: PLC0415
    except ImportError:
        return None
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
