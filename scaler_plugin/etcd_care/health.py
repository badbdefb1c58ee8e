"""How an etcd cluster is, and what to do about it.

Pure: values in, sentences out; :mod:`scaler_plugin.etcd_care.survey` asks etcd.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

#: From here on there is time to act before etcd refuses every write.
FULL_ENOUGH_TO_SAY = 0.8
CERTIFICATE_WARNING = timedelta(days=30)

ADVICE = "see docs/etcd.md"


@dataclass(frozen=True)
class MemberHealth:
    """``failure`` is why it did not answer. Sizes in bytes; ``None`` is what could not be found out."""

    name: str
    endpoint: str
    failure: str = ""
    version: str = ""
    leads: bool = False
    knows_leader: bool = False
    size: int = 0
    size_in_use: int | None = None
    quota: int | None = None
    certificate_ends: datetime | None = None

    @property
    def answers(self) -> bool:
        return not self.failure


@dataclass(frozen=True)
class EtcdHealth:
    """``configured``: how many members this machine knows by endpoint. ``reads_all``: this login may read beyond its prefix.

    ``asks_who``: authentication is on. ``on_loopback``: no other machine reaches it.
    """

    members: tuple[MemberHealth, ...]
    alarms: tuple[str, ...] = ()
    configured: int = 1
    encrypted: bool = True
    asks_who: bool = True
    on_loopback: bool = False
    reads_all: bool = False
    as_root: bool = False
    prefix_refused: str = ""
    client_certificate_ends: datetime | None = None


@dataclass(frozen=True)
class Findings:
    """``problems`` need somebody to act; ``notes`` are worth knowing."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


def judge(health: EtcdHealth, now: datetime, allow_open: bool = False) -> Findings:
    """What is wrong with it, and what could be better. ``allow_open``: its owner knows that it is open, so that is a note."""
    problems = [*_members(health), *_alarms(health), *_space(health), *_certificates(health, now)]
    if health.prefix_refused:
        problems.insert(0, health.prefix_refused)
    notes = list(_notes(health))
    (notes if allow_open or health.on_loopback else problems).extend(_openness(health))
    return Findings(tuple(problems), tuple(notes))


def _members(health: EtcdHealth) -> Iterator[str]:
    size = len(health.members)
    silent = [member for member in health.members if not member.answers]
    spare = (size - 1) // 2 - len(silent)
    for member in silent:
        if spare > 0:
            left = f"{spare} more may fail"
        else:
            left = "if one more fails, nothing can be written" if spare == 0 else "nothing can be written"
        yield f"{member.name} ({member.endpoint}) does not answer: {member.failure}. Start it again; until then {left}."
    if not silent and not any(member.knows_leader for member in health.members):
        yield "No member knows a leader, so nothing can be written. Check that the members reach each other on port 2380."


def _alarms(health: EtcdHealth) -> Iterator[str]:
    for alarm in health.alarms:
        if alarm.endswith("NOSPACE"):
            yield (
                f"Alarm {alarm}: etcd takes no writes until it is compacted and defragmented and the alarm is disarmed ({ADVICE}, "
                "“Full”)."
            )
        else:
            yield f"Alarm {alarm}: the data of a member is damaged. Replace that member, or restore a backup ({ADVICE})."


def _space(health: EtcdHealth) -> Iterator[str]:
    for member in health.members:
        if member.quota and member.size > FULL_ENOUGH_TO_SAY * member.quota:
            free = member.size - (member.size_in_use or member.size)
            yield (
                f"{member.name} uses {shown_size(member.size)} of {shown_size(member.quota)}; when that is full, nothing can be "
                f"written. Defragmenting it gives {shown_size(free)} back: etcdctl --endpoints={member.endpoint} defrag."
            )


def _certificates(health: EtcdHealth, now: datetime) -> Iterator[str]:
    for member in health.members:
        if member.certificate_ends and member.certificate_ends - now < CERTIFICATE_WARNING:
            yield (
                f"The certificate of {member.name} ends on {member.certificate_ends:%Y-%m-%d}. Renew it with "
                "`scaler-sidecar etcd certs` and copy the folder to the member; etcd takes it up without a restart."
            )
    ends = health.client_certificate_ends
    if ends and ends - now < CERTIFICATE_WARNING:
        yield (
            f"This machine's client certificate ends on {ends:%Y-%m-%d}. Renew it with `scaler-sidecar etcd certs` and put it "
            "where the nodes take it from."
        )


def _notes(health: EtcdHealth) -> Iterator[str]:
    size = len(health.members)
    if size == 1:
        yield "One member: while its machine is away nothing is launched, and its disk is the only copy. Keep backups."
    elif size % 2 == 0:
        yield f"{size} members bear the loss of no more than {size - 1} do; add one or remove one."
    if health.configured < size:
        yield (
            f"Of {size} members this machine knows {health.configured}; name them all in etcd.endpoints, so that any may fail."
        )
    if health.asks_who and health.reads_all and not health.as_root:
        yield f"This login may read more than its prefix: its role is too wide ({ADVICE})."


def _openness(health: EtcdHealth) -> Iterator[str]:
    if not health.asks_who:
        yield (
            "Authentication is off: whoever reaches the port, or has any of its certificates where it asks for one, can read and "
            f"write everything. Turn it on with bootstrap/etcd/auth.sh ({ADVICE}, “Install”)."
        )
    if not health.encrypted:
        yield (
            "The connection is not encrypted: whoever is on the way can read and change everything, passwords too. Set etcd up "
            f"with certificates ({ADVICE}, “Install”)."
        )


def shown_size(size: int) -> str:
    """``3.1 MB``."""
    number, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
