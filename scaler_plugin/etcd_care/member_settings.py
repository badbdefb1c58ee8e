"""A member's settings, as etcd reads them from its environment; the same file serves systemd and docker compose.

Every connection, of clients and between members, is encrypted and needs a certificate. Settings and certificates lie in
``/etc/etcd``, data in ``/var/lib/etcd``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from scaler_plugin.errors import ConfigError

SETTINGS_FILE = "etcd.env"
CLIENT_SETTINGS_FILE = "client.env"
CLIENT_PORT, PEER_PORT = 2379, 2380
#: etcd's own default, and plenty: a cluster of 1,000 nodes has a few megabytes.
QUOTA_BYTES = 2 * 1024**3

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Member:
    """``hosts``: every name and address it is reached by. The first is the one that clients and members are told."""

    name: str
    hosts: tuple[str, ...]

    @property
    def address(self) -> str:
        return f"[{self.hosts[0]}]" if ":" in self.hosts[0] else self.hosts[0]

    @property
    def client_url(self) -> str:
        return f"https://{self.address}:{CLIENT_PORT}"

    @property
    def peer_url(self) -> str:
        return f"https://{self.address}:{PEER_PORT}"


def parse_member(text: str) -> Member:
    """``NAME=HOST[,HOST…]``. Raises ``ConfigError``."""
    name, _, hosts_text = text.partition("=")
    hosts = tuple(dict.fromkeys(host.strip() for host in hosts_text.split(",") if host.strip()))
    if not _NAME.fullmatch(name) or not hosts:
        raise ConfigError(
            f"--member {text}: write NAME=ADDRESS, more of them after commas, such as etcd-1=10.0.0.5,etcd-1.internal."
        )
    for host in hosts:
        if not _is_address(host) and not _NAME.fullmatch(host):
            raise ConfigError(
                f"--member {text}: {host} is neither an IP address nor a host name; leave out port and scheme."
            )
    return Member(name, hosts)


def member_settings(member: Member, members: Sequence[Member]) -> str:
    """The text of ``etcd.env``."""
    # A name may be one that the host itself cannot bind to; then on every address, the certificates keep strangers out.
    bind = member.address if _is_address(member.hosts[0]) else "0.0.0.0"  # noqa: S104
    settings = {
        "NAME": member.name,
        "DATA_DIR": "/var/lib/etcd",
        "LISTEN_CLIENT_URLS": f"https://{bind}:{CLIENT_PORT}",
        "ADVERTISE_CLIENT_URLS": member.client_url,
        "LISTEN_PEER_URLS": f"https://{bind}:{PEER_PORT}",
        "INITIAL_ADVERTISE_PEER_URLS": member.peer_url,
        "INITIAL_CLUSTER": ",".join(f"{other.name}={other.peer_url}" for other in members),
        "INITIAL_CLUSTER_TOKEN": "scaler-sidecar",
        "CLIENT_CERT_AUTH": "true",
        "TRUSTED_CA_FILE": "/etc/etcd/ca.pem",
        "CERT_FILE": "/etc/etcd/server.pem",
        "KEY_FILE": "/etc/etcd/server.key",
        "PEER_CLIENT_CERT_AUTH": "true",
        "PEER_TRUSTED_CA_FILE": "/etc/etcd/peer-ca.pem",
        "PEER_CERT_FILE": "/etc/etcd/peer.pem",
        "PEER_KEY_FILE": "/etc/etcd/peer.key",
        "AUTO_COMPACTION_MODE": "periodic",
        "AUTO_COMPACTION_RETENTION": "1h",
        "QUOTA_BACKEND_BYTES": str(QUOTA_BYTES),
    }
    return "# Settings of an etcd member, made by `scaler-sidecar etcd certs`.\n" + "".join(
        f"ETCD_{name}={value}\n" for name, value in settings.items()
    )


def client_settings(members: Sequence[Member]) -> str:
    """Where the members answer, as the environment of ``scaler-sidecar`` has it."""
    return f"SCALER_ETCD={','.join(member.client_url.removeprefix('https://') for member in members)}\n"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def refuse_repeated(members: Sequence[Member]) -> None:
    """Two members of one name or one address would each be the other's undoing. Raises ``ConfigError``."""
    for index, member in enumerate(members):
        for other in members[:index]:
            if member.name == other.name or member.hosts[0] == other.hosts[0]:
                raise ConfigError(
                    f"--member {member.name}: its name or its address stands twice; each member has its own."
                )
