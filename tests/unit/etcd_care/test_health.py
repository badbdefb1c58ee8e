"""What is said about an etcd cluster, for each way in which it can be unwell."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from scaler_plugin.errors import StoreError
from scaler_plugin.etcd_care.backup import check_snapshot
from scaler_plugin.etcd_care.health import EtcdHealth, MemberHealth, judge, shown_size

NOW = datetime(2026, 11, 24, tzinfo=timezone.utc)
MEMBERS = tuple(
    MemberHealth(
        f"etcd-{n}", f"10.0.0.{n}:2379", version="3.5.21", leads=n == 1, knows_leader=True, size=20_000, quota=2**31
    )
    for n in (1, 2, 3)
)
WELL = EtcdHealth(MEMBERS, configured=3)


def problems(health: EtcdHealth) -> str:
    return "\n".join(judge(health, NOW).problems)


def notes(health: EtcdHealth) -> str:
    return "\n".join(judge(health, NOW).notes)


def test_of_a_cluster_that_is_well_nothing_is_said() -> None:
    assert judge(WELL, NOW).problems == ()
    assert judge(WELL, NOW).notes == ()


def test_a_silent_member_says_how_much_more_may_fail() -> None:
    lost = replace(MEMBERS[2], failure="etcd at 10.0.0.3:2379 did not answer")
    assert "if one more fails, nothing can be written" in problems(replace(WELL, members=(*MEMBERS[:2], lost)))
    five = (*MEMBERS[:2], lost, replace(MEMBERS[1], name="etcd-4"), replace(MEMBERS[1], name="etcd-5"))
    assert "1 more may fail" in problems(replace(WELL, members=five))
    assert "nothing can be written" in problems(
        replace(WELL, members=(MEMBERS[0], replace(MEMBERS[1], failure="x"), lost))
    )


def test_no_leader_is_a_problem() -> None:
    lost = tuple(replace(member, leads=False, knows_leader=False) for member in MEMBERS)
    assert "No member knows a leader" in problems(replace(WELL, members=lost))


def test_alarms_say_what_to_do() -> None:
    assert "compacted and defragmented" in problems(replace(WELL, alarms=("etcd-1: NOSPACE",)))
    assert "restore a backup" in problems(replace(WELL, alarms=("etcd-1: CORRUPT",)))


def test_a_nearly_full_member_is_a_problem_before_writes_fail() -> None:
    full = replace(MEMBERS[0], size=1_900_000_000, size_in_use=100_000_000)
    said = problems(replace(WELL, members=(full, *MEMBERS[1:])))
    assert "1.9 GB of 2.1 GB" in said
    assert "gives 1.8 GB back" in said


def test_certificates_that_end_soon_are_problems() -> None:
    soon = NOW + timedelta(days=29)
    member = replace(MEMBERS[0], certificate_ends=soon)
    assert "etcd-1 ends on 2026-12-23" in problems(replace(WELL, members=(member, *MEMBERS[1:])))
    assert "client certificate ends" in problems(replace(WELL, client_certificate_ends=soon))
    assert problems(replace(WELL, client_certificate_ends=NOW + timedelta(days=31))) == ""


def test_what_could_be_better_is_a_note() -> None:
    assert "One member" in notes(replace(WELL, members=MEMBERS[:1], configured=1))
    assert "2 members bear the loss of no more than 1" in notes(replace(WELL, members=MEMBERS[:2], configured=2))
    assert "this machine knows 1" in notes(replace(WELL, configured=1))
    assert "may read more than its prefix" in notes(replace(WELL, reads_all=True))
    assert notes(replace(WELL, reads_all=True, as_root=True)) == ""


@pytest.mark.parametrize(
    ("state", "said"),
    [(replace(WELL, encrypted=False), "not encrypted"), (replace(WELL, asks_who=False), "Authentication is off")],
)
def test_an_open_etcd_is_a_problem_unless_it_is_on_loopback_or_its_owner_says_so(state: EtcdHealth, said: str) -> None:
    assert said in problems(state)
    assert said not in notes(state)
    for findings in (judge(replace(state, on_loopback=True), NOW), judge(state, NOW, allow_open=True)):
        assert findings.problems == ()
        assert said in findings.notes[0]


def test_where_root_looks_authentication_that_is_off_is_a_problem_all_the_same() -> None:
    assert "Authentication is off" in problems(replace(WELL, asks_who=False, reads_all=True, as_root=True))


def test_a_login_without_the_prefix_is_the_first_problem() -> None:
    refused = replace(WELL, prefix_refused="Etcd does not permit this.", alarms=("etcd-1: NOSPACE",))
    assert judge(refused, NOW).problems[0] == "Etcd does not permit this."


@pytest.mark.parametrize(("size", "shown"), [(0, "0 B"), (999, "999 B"), (20_480, "20.5 kB"), (2 * 1024**3, "2.1 GB")])
def test_sizes_are_short(size: int, shown: str) -> None:
    assert shown_size(size) == shown


def snapshot(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def test_a_whole_snapshot_passes_and_a_damaged_or_cut_one_does_not(tmp_path: Path) -> None:
    body = bytes(16) + (0xED0CDAED).to_bytes(4, "little") + bytes(4076)
    file = tmp_path / "a.db"
    file.write_bytes(snapshot(body))
    check_snapshot(file)
    for damaged in (snapshot(body)[:-1], snapshot(body)[:-32], b"", snapshot(bytes(4096)), b"x" + snapshot(body)[1:]):
        file.write_bytes(damaged)
        with pytest.raises(StoreError):
            check_snapshot(file)
