"""The folder of certificates: complete, private, and touched again only where something is due."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509

from scaler_plugin.errors import ConfigError
from scaler_plugin.etcd_care.certificate_files import Wish, ensure_certificates, known_members
from scaler_plugin.etcd_care.certificates import hosts_of
from scaler_plugin.etcd_care.member_settings import Member, parse_member, refuse_repeated

NOW = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
TWO_YEARS = timedelta(days=730)
ONE = Member("etcd-1", ("10.0.0.5", "etcd-1.internal"))
THREE = tuple(Member(f"etcd-{number}", (f"10.0.0.{number}",)) for number in (1, 2, 3))


def wish(
    *members: Member, renew: bool = False, life: timedelta = TWO_YEARS, users: tuple[str, ...] = ("scaler",)
) -> Wish:
    return Wish(members, users, life, renew)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_folder_for_each_machine_holds_all_it_needs_and_no_authoritys_key(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, wish(*THREE), NOW)
    made = set(contents(tmp_path))
    member = {"ca.pem", "peer-ca.pem", "server.pem", "server.key", "peer.pem", "peer.key", "etcd.env"}
    assert {name.rpartition("/")[2] for name in made if name.startswith("members/etcd-2/")} == member
    assert {name for name in made if name.startswith("clients/scaler/")} == {
        f"clients/scaler/{name}" for name in ("ca.pem", "client.pem", "client.key", "client.env")
    }
    assert (
        tmp_path / "clients/scaler/client.env"
    ).read_text() == "SCALER_ETCD=10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379\n"
    assert {name for name in made if name.endswith("ca.key")} == {"authorities/ca.key", "authorities/peer-ca.key"}


def test_keys_are_their_owners_alone_and_so_are_the_folders(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    ensure_certificates(folder, wish(ONE), NOW)
    for path in folder.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode & 0o077 == 0, path
        else:
            assert mode == (0o600 if path.suffix == ".key" else 0o644), path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_called_again_it_changes_nothing(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, wish(*THREE), NOW)
    before = contents(tmp_path)
    said = ensure_certificates(tmp_path, wish(), NOW + timedelta(days=600))
    assert contents(tmp_path) == before
    assert all("kept" in line for line in said)


def test_what_ends_within_a_month_is_renewed_under_the_same_authority(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, wish(ONE), NOW)
    before, later = contents(tmp_path), NOW + TWO_YEARS - timedelta(days=29)
    said = ensure_certificates(tmp_path, wish(), later)
    after = contents(tmp_path)
    assert after["authorities/ca.pem"] == before["authorities/ca.pem"]
    for name in ("members/etcd-1/server", "members/etcd-1/peer", "clients/scaler/client"):
        assert after[f"{name}.pem"] != before[f"{name}.pem"]
        assert after[f"{name}.key"] != before[f"{name}.key"]
        assert certificate(tmp_path / f"{name}.pem").not_valid_after_utc == later + TWO_YEARS
    assert "renewed, 29 days before its end" in " ".join(said)


def test_a_member_with_another_address_gets_a_new_certificate_and_the_others_keep_theirs(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, wish(*THREE), NOW)
    before = contents(tmp_path)
    moved = (THREE[0], Member("etcd-2", ("10.0.9.9",)), THREE[2])
    said = ensure_certificates(tmp_path, wish(*moved), NOW)
    after = contents(tmp_path)
    assert "etcd-2/: made anew, for other hosts" in " ".join(said)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {
        "members/etcd-2/server.pem", "members/etcd-2/server.key", "members/etcd-2/peer.pem", "members/etcd-2/peer.key",
        *(f"members/etcd-{number}/etcd.env" for number in (1, 2, 3)),
        "clients/scaler/client.env",
    }  # fmt: skip


def test_naming_a_part_of_the_members_is_refused_because_it_would_write_the_settings_of_another_cluster(
    tmp_path: Path,
) -> None:
    ensure_certificates(tmp_path, wish(THREE[0]), NOW)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="has also etcd-1; name all members, or remove members/etcd-1") as refused:
        ensure_certificates(tmp_path, wish(THREE[1]), NOW)
    assert refused.value.exit_code == 2
    assert contents(tmp_path) == before


def test_one_member_becomes_three_by_naming_all_and_keeps_its_certificates(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, wish(THREE[0]), NOW)
    before = contents(tmp_path)
    ensure_certificates(tmp_path, wish(*THREE), NOW)
    after = contents(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {
        "members/etcd-1/etcd.env",
        "clients/scaler/client.env",
    }


def test_a_half_written_pair_is_made_anew(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, wish(ONE), NOW)
    key = tmp_path / "clients/scaler/client.key"
    key.write_bytes((tmp_path / "members/etcd-1/peer.key").read_bytes())
    assert "clients/scaler/: made" in ensure_certificates(tmp_path, wish(), NOW)
    assert [member.hosts for member in known_members(tmp_path)] == [ONE.hosts]


def test_an_authority_without_its_key_is_a_sentence_and_nothing_is_replaced(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, wish(ONE), NOW)
    (tmp_path / "authorities/ca.key").unlink()
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="bring the key back"):
        ensure_certificates(tmp_path, wish(renew=True), NOW)
    assert contents(tmp_path) == before


def test_an_empty_folder_and_no_member_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--member NAME=ADDRESS"):
        ensure_certificates(tmp_path / "new", wish(), NOW)
    assert not (tmp_path / "new").exists()


def test_with_a_new_authority_of_clients_all_that_the_old_one_signed_is_made_anew_and_nothing_of_the_members_own(
    tmp_path: Path,
) -> None:
    ensure_certificates(tmp_path, wish(ONE), NOW)
    before = contents(tmp_path)
    for file in ("ca.pem", "ca.key"):
        (tmp_path / "authorities" / file).unlink()
    said = ensure_certificates(tmp_path, wish(), NOW)
    after = contents(tmp_path)
    assert sum("by this folder's authority" in line for line in said) == 2
    kept = {name for name in before if before[name] == after[name]}
    assert {name for name in before if "peer" in name} <= kept
    assert not {"members/etcd-1/server.pem", "members/etcd-1/ca.pem", "clients/scaler/client.pem"} & kept


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, wish(ONE), NOW)
    late = NOW + timedelta(days=3600)
    ensure_certificates(tmp_path, wish(renew=True), late)
    ends = certificate(tmp_path / "authorities/ca.pem").not_valid_after_utc
    assert certificate(tmp_path / "clients/scaler/client.pem").not_valid_after_utc == ends


def test_a_member_is_known_by_all_its_hosts_and_on_its_own_machine_and_names_no_user(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, wish(ONE), NOW)
    server = certificate(tmp_path / "members/etcd-1/server.pem")
    assert set(hosts_of(server)) == {*ONE.hosts, "localhost", "127.0.0.1"}
    assert "CN=" not in server.subject.rfc4514_string()


@pytest.mark.parametrize(
    "text",
    ["etcd-1", "=10.0.0.5", "a=", "a/b=10.0.0.5", "a=https://10.0.0.5", "a=10.0.0.5:2379", "../a=10.0.0.5", "a=b c"],
)
def test_a_member_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--member"):
        parse_member(text)


def test_two_members_of_one_address_are_refused() -> None:
    with pytest.raises(ConfigError, match="stands twice"):
        refuse_repeated((parse_member("a=10.0.0.5"), parse_member("b=10.0.0.5")))
