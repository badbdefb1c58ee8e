"""``scaler-sidecar etcd``: certs, status, backup."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaler_plugin.cli.options import ConfigOption, EtcdOption, find_etcd, names_etcd
from scaler_plugin.config.connect import ClusterAddress, local_file
from scaler_plugin.config.kept_secrets import resolve_kept
from scaler_plugin.errors import ConfigError, HostError

if TYPE_CHECKING:
    from scaler_plugin.coordination.etcd_connection import Access
    from scaler_plugin.etcd_care.health import EtcdHealth, Findings

#: Width where nobody looks at a terminal: everything fits.
PIPED_WIDTH = 200

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Look after etcd: certificates, health, backups.",
)

IdentityOption = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        metavar="FOLDER",
        help="A folder with ca.pem, client.pem and client.key, such as clients/root of `etcd certs`, to use instead of the"
        " TLS files and the user that are set otherwise; its client.env says where etcd is, unless that is said otherwise.",
    ),
]


@app.command()
def certs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the certificates are or shall be.", show_default=False)
    ],
    member: Annotated[
        list[str] | None,
        typer.Option(
            "--member",
            metavar="NAME=ADDRESS,…",
            help="A member, with every address and name it is reached by; the first is the one it listens on. Once for each member."
            " Left out: the members that the folder has.",
        ),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option("--user", metavar="NAME", help="A client. Left out: `scaler` for the cluster, `root` for people."),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long new certificates are good.")] = 730,
    renew: Annotated[bool, typer.Option("--renew", help="Renew all, also those that are good for long.")] = False,
) -> None:
    """Make the certificates and settings of an etcd cluster, or renew those that end within 30 days.

    Calling it again changes nothing that is in order. Copy `members/NAME` to that member's /etc/etcd, `clients/scaler` to where the
    nodes take it from; keep `authorities` away from all of them. See docs/etcd.md.
    """
    try:
        from scaler_plugin.etcd_care.certificate_files import Wish, ensure_certificates  # noqa: PLC0415
    except ImportError:
        raise HostError(
            "Certificates are made with the package cryptography, which is not installed; install it with"
            " `pip install '.[certs]'` in a checkout."
        ) from None
    from scaler_plugin.etcd_care.member_settings import parse_member, refuse_repeated  # noqa: PLC0415

    members = tuple(parse_member(text) for text in member or ())
    refuse_repeated(members)
    wish = Wish(members, tuple(user or ("scaler", "root")), timedelta(days=days), renew)
    for line in ensure_certificates(folder, wish, datetime.now(timezone.utc)):
        typer.echo(line)


@app.command()
def status(
    etcd: EtcdOption = None,
    config: ConfigOption = None,
    identity: IdentityOption = None,
    allow_open: Annotated[
        bool,
        typer.Option("--allow-open", help="Take an etcd without TLS or authentication for well; it is noted only."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show etcd's members, who leads, sizes against the quota, alarms, how long certificates are good, and what to do.

    An etcd without TLS or authentication needs attention unless it is on this machine's loopback.
    Exit codes: 0 all is well, 1 something needs attention, 3 etcd cannot be used at all.
    """
    from scaler_plugin.etcd_care.health import judge  # noqa: PLC0415
    from scaler_plugin.etcd_care.survey import survey  # noqa: PLC0415

    address, access = _access(etcd, config, identity)
    health = survey(access, address.prefix)
    findings = judge(health, datetime.now(timezone.utc), allow_open)
    if as_json:
        _print_json(health, findings)
    else:
        _print_table(health, findings)
    if findings.problems:
        raise typer.Exit(1)


@app.command()
def backup(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Where to; in a folder that exists, a name with the time in it.", show_default=False
        ),
    ],
    etcd: EtcdOption = None,
    config: ConfigOption = None,
    identity: IdentityOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write all of etcd's data to a file, checked and readable by you alone.

    Where etcd asks for a login it must be that of its root user. To restore it, see docs/etcd.md.
    """
    from scaler_plugin.etcd_care.backup import take_backup  # noqa: PLC0415
    from scaler_plugin.etcd_care.health import shown_size  # noqa: PLC0415

    _, access = _access(etcd, config, identity)
    path = file / f"etcd-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.db" if file.is_dir() else file
    taken = take_backup(access, path, overwrite=force)
    typer.echo(f"Saved to {taken.path}: {shown_size(taken.size)}, its checksum is right.")


def _access(etcd: str | None, config_file: Path | None, identity: Path | None) -> tuple[ClusterAddress, Access]:
    from scaler_plugin.coordination.etcd_store import make_access  # noqa: PLC0415

    if identity is not None:
        etcd = etcd or _members_of(identity, config_file)
    address, region = find_etcd(etcd, config_file)
    settings = address.etcd
    if identity is not None:
        settings = replace(
            settings,
            ca=str(identity / "ca.pem"),
            cert=str(identity / "client.pem"),
            key=str(identity / "client.key"),
            user=None,
            password=None,
        )
    ca, cert, key = (local_file(given, region) for given in (settings.ca, settings.cert, settings.key))
    password = resolve_kept(settings.password, region) if settings.password else None
    return address, make_access(settings.endpoints, ca=ca, cert=cert, key=key, user=settings.user, password=password)


def _members_of(identity: Path, config_file: Path | None) -> str | None:
    """Where etcd is, as the folder says; ``None`` where that is said otherwise, or the folder does not know."""
    from scaler_plugin.etcd_care.member_settings import CLIENT_SETTINGS_FILE  # noqa: PLC0415

    try:
        (identity / "client.key").stat()
        if config_file is not None or names_etcd(None):
            return None
        lines = (identity / CLIENT_SETTINGS_FILE).read_text(encoding="utf-8").splitlines()
    except PermissionError:
        raise ConfigError(f"--identity {identity}: it cannot be read by this user; call this as its owner.") from None
    except FileNotFoundError as error:
        if error.filename is not None and Path(error.filename).name == CLIENT_SETTINGS_FILE:
            return None
        raise ConfigError(
            f"--identity {identity}: there is no client.key in it; name a folder under clients/."
        ) from None
    found = [line.partition("=")[2].strip() for line in lines if line.startswith("SCALER_ETCD=")]
    return found[-1] if found else None


#: From left to right; the last ones are left out where the terminal is narrow.
_COLUMNS = ("endpoint", "version", "role", "data", "of", "certificate until")


def _print_table(health: EtcdHealth, findings: Findings) -> None:
    from rich.console import Console  # noqa: PLC0415

    from scaler_plugin.etcd_care.health import shown_size  # noqa: PLC0415
    from scaler_plugin.status.grid import Column, Layout, table  # noqa: PLC0415

    rows = [
        {
            "member": member.name,
            "endpoint": member.endpoint,
            "version": member.version or "-",
            "role": ("leader" if member.leads else "follower") if member.answers else "does not answer",
            "data": shown_size(member.size) if member.answers else "-",
            "of": shown_size(member.quota) if member.quota else "-",
            "certificate until": f"{member.certificate_ends:%Y-%m-%d}" if member.certificate_ends else "-",
        }
        for member in health.members
    ]
    columns = [Column("member", ""), *(Column(name, name) for name in _COLUMNS)]
    console = Console(soft_wrap=True, highlight=False)
    width = console.width if console.is_terminal else PIPED_WIDTH
    for line in table("MEMBERS", [Layout(columns), Layout(columns[:4])], rows, width):
        console.print(line)
    for problem in findings.problems:
        console.print(f"Problem: {problem}", style="red", markup=False)
    for note in findings.notes:
        console.print(f"Note: {note}", markup=False)
    if not findings.problems:
        console.print("etcd is well.", style="green")


def _print_json(health: EtcdHealth, findings: Findings) -> None:
    import json  # noqa: PLC0415

    members = [
        {
            "name": member.name,
            "endpoint": member.endpoint,
            "answers": member.answers,
            "leads": member.leads,
            "version": member.version,
            "size_bytes": member.size,
            "size_in_use_bytes": member.size_in_use,
            "quota_bytes": member.quota,
            "certificate_ends": member.certificate_ends.isoformat() if member.certificate_ends else None,
        }
        for member in health.members
    ]
    typer.echo(
        json.dumps(
            {
                "ok": not findings.problems,
                "members": members,
                "alarms": list(health.alarms),
                "problems": list(findings.problems),
                "notes": list(findings.notes),
            }
        )
    )
