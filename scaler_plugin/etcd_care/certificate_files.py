"""The folder of certificates: made, completed and renewed so that each part of it can be copied to its machine as it is.

``authorities/`` (keep it off the servers) · ``members/<name>/`` (becomes ``/etc/etcd``, settings included) · ``clients/<user>/``.

Guarantees: private keys are readable by their owner alone from the first moment; a file is replaced whole or not at all; calling it
again changes only what is missing, ends soon, or names other hosts than wanted. An authority is never replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from scaler_plugin.errors import ConfigError, HostError
from scaler_plugin.etcd_care.certificates import (
    Pair,
    hosts_of,
    issue_client,
    issue_member,
    issued_by,
    new_authority,
    read_pair,
)
from scaler_plugin.etcd_care.member_settings import (
    CLIENT_SETTINGS_FILE,
    SETTINGS_FILE,
    Member,
    client_settings,
    member_settings,
)

#: Certificates with less life than this left are renewed, and ``etcd status`` warns about them.
RENEW_BEFORE = timedelta(days=30)

CLIENT_AUTHORITY, PEER_AUTHORITY = "ca", "peer-ca"

#: Every member may also be reached by these, on its own machine or through a tunnel.
LOCAL_HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Wish:
    """``members`` empty: those that the folder has already. Otherwise none of these may be missing: settings name all members."""

    members: tuple[Member, ...]
    users: tuple[str, ...]
    life: timedelta
    renew_all: bool = False


def ensure_certificates(folder: Path, wish: Wish, now: datetime) -> list[str]:
    """Make the folder hold everything wished for. Returns what was done, a line per certificate.

    Raises ``ConfigError`` for a wish that cannot be met, ``HostError`` when the folder cannot be used.
    """
    try:
        return list(_ensured(folder, wish, now))
    except OSError as error:
        raise HostError(f"The certificates in {folder} could not be written: {error}. Check the folder.") from error


def known_members(folder: Path) -> tuple[Member, ...]:
    """The members whose certificates the folder has, with the hosts in them."""
    members = []
    for directory in sorted((folder / "members").glob("*/")):
        pair = _read(directory, "peer")
        if pair is not None:
            members.append(Member(directory.name, hosts_of(pair.certificate)))
    return tuple(members)


def _ensured(folder: Path, wish: Wish, now: datetime) -> Iterator[str]:
    known = known_members(folder)
    members = wish.members or known
    if not members:
        raise ConfigError(
            "No member is named, and the folder has none; give --member NAME=ADDRESS for each, such as --member etcd-1=10.0.0.5."
        )
    _refuse_parts(folder, wish.members, known)
    authorities = folder / "authorities"
    for directory in (folder, authorities, folder / "members", folder / "clients"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca, made_ca = _authority(authorities, CLIENT_AUTHORITY, now)
    peer_ca, made_peer_ca = _authority(authorities, PEER_AUTHORITY, now)
    yield f"authorities/: {'made' if made_ca or made_peer_ca else 'kept'}"
    ends = now + wish.life

    def due(pair: Pair | None, authority: Pair, hosts: Sequence[str]) -> str:
        return _why_due(pair, authority, hosts, wish.renew_all, now)

    for member in members:
        directory = folder / "members" / member.name
        to_clients = tuple(dict.fromkeys((*member.hosts, *LOCAL_HOSTS)))
        why = _issue_into(
            directory,
            (
                ("server", ca, to_clients, partial(issue_member, ca, member.name, to_clients, ends, now)),
                ("peer", peer_ca, member.hosts, partial(issue_member, peer_ca, member.name, member.hosts, ends, now)),
            ),
            due,
        )
        write_private(directory / f"{CLIENT_AUTHORITY}.pem", ca.certificate_pem(), 0o644)
        write_private(directory / f"{PEER_AUTHORITY}.pem", peer_ca.certificate_pem(), 0o644)
        write_private(directory / SETTINGS_FILE, member_settings(member, members).encode(), 0o644)
        yield f"members/{member.name}/: {why}, for {', '.join(member.hosts)}"
    for user in wish.users:
        directory = folder / "clients" / user
        why = _issue_into(directory, (("client", ca, (), partial(issue_client, ca, user, ends, now)),), due)
        write_private(directory / f"{CLIENT_AUTHORITY}.pem", ca.certificate_pem(), 0o644)
        write_private(directory / CLIENT_SETTINGS_FILE, client_settings(members).encode(), 0o644)
        yield f"clients/{user}/: {why}"


def _refuse_parts(folder: Path, named: Sequence[Member], known: Sequence[Member]) -> None:
    """Some of a cluster's members alone would get the settings of another cluster."""
    left_out = sorted({member.name for member in known} - {member.name for member in named})
    if named and left_out:
        raise ConfigError(
            f"The folder {folder} has also {', '.join(left_out)}; name all members, or remove "
            f"{', '.join(f'members/{name}' for name in left_out)}. Nothing was changed."
        )


def _issue_into(
    directory: Path,
    wanted: Iterable[tuple[str, Pair, Sequence[str], Callable[[], Pair]]],
    due: Callable[[Pair | None, Pair, Sequence[str]], str],
) -> str:
    """Issue what is due of the wanted certificates; the reason, or that all were kept."""
    directory.mkdir(mode=0o700, exist_ok=True)
    reasons = []
    for name, authority, hosts, issue in wanted:
        reason = due(_read(directory, name), authority, hosts)
        if reason:
            _write_pair(directory, name, issue())
            reasons.append(reason)
    return reasons[0] if reasons else "kept"


def _why_due(pair: Pair | None, authority: Pair, hosts: Sequence[str], renew_all: bool, now: datetime) -> str:
    if pair is None or not pair.matches:
        return "made"
    if renew_all:
        return "renewed"
    if not issued_by(pair, authority):
        return "made anew, by this folder's authority"
    if set(hosts_of(pair.certificate)) != set(hosts):
        return "made anew, for other hosts"
    left = pair.certificate.not_valid_after_utc - now
    # Under an authority that ends soon itself, renewing would go on for ever.
    if left < RENEW_BEFORE and pair.certificate.not_valid_after_utc < authority.certificate.not_valid_after_utc:
        return f"renewed, {max(0, left.days)} days before its end"
    return ""


def _authority(directory: Path, name: str, now: datetime) -> tuple[Pair, bool]:
    """The authority, and whether it was made just now."""
    files = (directory / f"{name}.pem", directory / f"{name}.key")
    if not any(file.exists() for file in files):
        pair = new_authority(f"{'members' if name == PEER_AUTHORITY else 'clients'} of etcd", now)
        _write_pair(directory, name, pair)
        return pair, True
    found = _read(directory, name)
    if found is None or not found.matches:
        raise ConfigError(
            f"The authority {files[0]} cannot be used without its key, {files[1]}; bring the key back for as long as certificates "
            "are issued, or begin with an empty folder (every member and client then needs new files)."
        )
    return found, False


def _read(directory: Path, name: str) -> Pair | None:
    """The pair in the folder; ``None`` when it is not whole."""
    try:
        return read_pair((directory / f"{name}.pem").read_bytes(), (directory / f"{name}.key").read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _write_pair(directory: Path, name: str, pair: Pair) -> None:
    write_private(directory / f"{name}.key", pair.key_pem(), 0o600)
    write_private(directory / f"{name}.pem", pair.certificate_pem(), 0o644)


def write_private(path: Path, content: bytes, mode: int) -> None:
    """Replace the file in one step; before it has its final mode nobody but its owner can read it. Raises ``OSError``."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
        os.fchmod(descriptor, mode)
    scratch.replace(path)
