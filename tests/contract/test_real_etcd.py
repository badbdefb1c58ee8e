"""A real etcd, set up and started exactly as the service files and ``auth.sh`` have it: who gets in, to what, and who does not."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler_plugin.coordination.etcd_store import EtcdStore, open_store
from scaler_plugin.coordination.store import CreatedAt, Delete, Put
from scaler_plugin.errors import StoreError, StoreRefused, StoreUnavailable
from scaler_plugin.localcloud.etcd import EtcdProcess, EtcdTls, etcd_binary

from ..waiting import PATIENCE_S, STARTING_S
from .documented_etcd import (
    PREFIX,
    SERVICE_FILES,
    Compose,
    RealEtcd,
    RealMember,
    SystemdUnit,
    open_as,
    scaler_sidecar,
)

#: As a cluster of the name `c` has it.
LEADER = f"{PREFIX}c/leader"
#: Longer than all members take to start again.
LEASE_S = 10

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(
    scope="module", params=[(1, Compose()), (3, SystemdUnit())], ids=["one-member-by-compose", "three-members-by-unit"]
)
def etcd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEtcd]:
    made = RealEtcd(tmp_path_factory.mktemp("etcd"))
    try:
        made.set_up(*request.param)
        yield made
    finally:
        made.end()


@pytest.fixture
def store(etcd: RealEtcd) -> Iterator[EtcdStore]:
    opened = etcd.open()
    yield opened
    opened.close()


def test_with_its_certificate_alone_a_node_can_do_under_the_prefix_all_that_the_store_offers(store: EtcdStore) -> None:
    woken = threading.Event()
    watch = store.watch(f"{PREFIX}t/", woken.set)
    lease = store.grant_lease(30)
    assert store.transact([CreatedAt(f"{PREFIX}t/a", 0)], [Put(f"{PREFIX}t/a", "1", lease)]).succeeded
    assert woken.wait(PATIENCE_S)
    store.keep_alive(lease)
    assert [entry.value for entry in store.get_prefix(f"{PREFIX}t/")] == ["1"]
    store.revoke_lease(lease)
    assert store.get(f"{PREFIX}t/a") is None
    watch.cancel()


@pytest.mark.parametrize("key", ["/", "/other/a", "/scaler-sidecar", "/scaler-sidecarX/a", "registry"])
def test_a_node_can_neither_read_nor_write_beside_the_prefix(store: EtcdStore, key: str) -> None:
    with pytest.raises(StoreRefused, match="permit"):
        store.get(key)
    with pytest.raises(StoreRefused, match="permit"):
        store.transact([], [Put(key, "1")])
    with pytest.raises(StoreRefused, match="permit"):
        store.transact([CreatedAt(f"{PREFIX}a", 0)], [Put(f"{PREFIX}a", "1"), Put(key, "1")])


@pytest.mark.parametrize(
    "command",
    [
        ["user", "add", "thief", "--no-password"],
        ["user", "grant-role", "scaler", "root"],
        ["role", "grant-permission", "scaler", "readwrite", "--prefix=true", "/"],
        ["auth", "disable"],
        ["get", "--prefix", ""],
        ["del", "--prefix", ""],
        ["snapshot", "save", "stolen.db"],
    ],
    ids=" ".join,
)
def test_a_node_can_neither_widen_its_rights_nor_take_everything(
    etcd: RealEtcd, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = etcd.etcdctl(*command, user="scaler")
    assert refused.returncode != 0, refused.stdout
    assert "permission denied" in refused.stderr


@pytest.mark.parametrize("listening", [True, False], ids=["silent", "closed"])
def test_turning_authentication_on_where_no_etcd_answers_ends_with_a_sentence(tmp_path: Path, listening: bool) -> None:
    made = scaler_sidecar("etcd", "certs", str(tmp_path / "certs"), "--member", "etcd-1=127.0.0.1")
    assert made.returncode == 0, made.stderr
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if listening:  # and never accepting
            port.listen()
        endpoint = f"https://127.0.0.1:{port.getsockname()[1]}"
        done = subprocess.run(
            [str(SERVICE_FILES / "auth.sh")],
            env={
                **os.environ,
                "ENDPOINT": endpoint,
                "CERTS": str(tmp_path / "certs"),
                "ETCDCTL": str(etcd_binary("etcdctl")),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    assert done.returncode == 1
    assert f"No etcd answers at {endpoint} with these certificates" in done.stderr
    assert "Authentication is on" not in done.stdout


def test_strangers_are_refused_with_a_sentence(etcd: RealEtcd, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    assert scaler_sidecar("etcd", "certs", str(theirs), "--member", "etcd-1=10.0.0.5").returncode == 0
    own, other = etcd.identity("scaler"), theirs / "clients" / "scaler"
    cases = {
        "another authority's certificate": {**own, "cert": other / "client.pem", "key": other / "client.key"},
        "trusting another authority": {**own, "ca": other / "ca.pem"},
        "no certificate": {"ca": own["ca"]},
        "the authority as a client": {**own, "cert": etcd.certs / "authorities/ca.pem", "key": etcd.certs / "authorities/ca.key"},
    }  # fmt: skip
    for identity in cases.values():
        stranger = open_as(etcd.endpoints, identity)
        with pytest.raises(StoreUnavailable, match="check"):
            stranger.get(PREFIX)
        stranger.close()


def test_a_certificate_of_a_user_that_etcd_does_not_know_opens_nothing(etcd: RealEtcd) -> None:
    assert scaler_sidecar("etcd", "certs", str(etcd.certs), "--user", "newcomer").returncode == 0
    newcomer = etcd.open("newcomer")
    with pytest.raises(StoreRefused):
        newcomer.get(f"{PREFIX}a")
    newcomer.close()


def test_a_stolen_certificate_ends_with_its_user_and_another_user_takes_over(etcd: RealEtcd) -> None:
    assert scaler_sidecar("etcd", "certs", str(etcd.certs), "--user", "stolen").returncode == 0
    etcd.authenticate("stolen")
    thief, successor = etcd.open("stolen"), etcd.open()
    assert thief.transact([], [Put(f"{PREFIX}a", "mine")]).succeeded
    assert etcd.etcdctl("user", "delete", "stolen").returncode == 0
    with pytest.raises(StoreRefused):
        thief.get(f"{PREFIX}a")
    assert successor.get(f"{PREFIX}a") is not None
    thief.close()
    successor.close()


def test_what_a_removed_user_holds_open_ends_with_a_restart_of_the_members_and_the_deletion_of_its_keys(
    etcd: RealEtcd,
) -> None:
    assert scaler_sidecar("etcd", "certs", str(etcd.certs), "--user", "holder").returncode == 0
    etcd.authenticate("holder")
    thief, successor = etcd.open("holder"), etcd.open()
    theirs, ours = threading.Event(), threading.Event()
    thief.watch(f"{PREFIX}w/", theirs.set)
    successor.watch(f"{PREFIX}w/", ours.set)
    lease = thief.grant_lease(LEASE_S)
    assert thief.transact([CreatedAt(LEADER, 0)], [Put(LEADER, "thief", lease)]).succeeded

    # Removal alone: etcd asks for rights when a watch begins, and for none when a lease is renewed.
    assert etcd.etcdctl("user", "delete", "holder").returncode == 0
    assert successor.transact([], [Put(f"{PREFIX}w/a", "1")]).succeeded
    assert theirs.wait(PATIENCE_S)
    deadline = time.monotonic() + LEASE_S + 2  # longer than it lives by itself
    while time.monotonic() < deadline:
        thief.keep_alive(lease)
        time.sleep(0.5)
    assert successor.get(LEADER) is not None

    ours.clear()
    etcd.restart_one_after_another()
    assert ours.wait(STARTING_S)  # its watch has begun anew
    thief.keep_alive(lease)
    ours.clear()
    theirs.clear()
    assert successor.transact([], [Put(f"{PREFIX}w/a", "2")]).succeeded
    assert ours.wait(PATIENCE_S)
    assert not theirs.is_set()

    assert etcd.etcdctl("del", LEADER).stdout.strip() == "1"
    with pytest.raises(StoreRefused):
        thief.transact([], [Put(LEADER, "thief", lease)])
    assert successor.transact([CreatedAt(LEADER, 0)], [Put(LEADER, "successor")]).succeeded
    assert successor.transact([], [Delete(LEADER)]).succeeded
    thief.close()
    successor.close()


def test_a_new_authority_of_clients_shuts_out_every_certificate_of_the_old_one(tmp_path: Path) -> None:
    etcd = RealEtcd(tmp_path)
    try:
        etcd.set_up(1, SystemdUnit())
        stolen = tmp_path / "stolen"
        shutil.copytree(etcd.certs / "clients" / "scaler", stolen)
        for file in ("ca.pem", "ca.key"):
            (etcd.certs / "authorities" / file).unlink()
        assert scaler_sidecar("etcd", "certs", str(etcd.certs)).returncode == 0
        install(etcd)
        etcd.restart_one_after_another()
        store = etcd.open()
        assert store.transact([], [Put(f"{PREFIX}a", "1")]).succeeded
        thief = open_as(
            etcd.endpoints,
            {"ca": etcd.certs / "authorities/ca.pem", "cert": stolen / "client.pem", "key": stolen / "client.key"},
        )
        with pytest.raises(StoreUnavailable):
            thief.grant_lease(10)
        thief.close()
        store.close()
    finally:
        etcd.end()


def test_a_members_certificate_makes_nobody_a_user(etcd: RealEtcd) -> None:
    """It names no user, or etcd's HTTP gateway, which shows it to its own server, would act as that user."""
    member = etcd.members[0].folder
    as_member = open_store(etcd.endpoints, ca=member / "ca.pem", cert=member / "server.pem", key=member / "server.key")
    with pytest.raises(StoreError):
        as_member.get(f"{PREFIX}a")
    as_member.close()


def test_the_port_between_members_answers_members_and_no_client(etcd: RealEtcd) -> None:
    member, node = etcd.members[0], etcd.identity("scaler")
    assert b"200 OK" in ask_peer_port(member, member.folder / "peer.pem", member.folder / "peer.key")
    assert ask_peer_port(member, node["cert"], node["key"]) == b""


def ask_peer_port(member: RealMember, cert: Path, key: Path) -> bytes:
    """The beginning of the answer, empty when the server broke off."""
    context = ssl.create_default_context(cafile=member.folder / "peer-ca.pem")
    context.load_cert_chain(cert, key)
    try:
        with (
            socket.create_connection((member.address, 2380), PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=member.address) as peer,
        ):
            peer.sendall(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
            return peer.recv(100)
    except (ssl.SSLError, ConnectionResetError):
        return b""


def test_status_shows_every_member_and_finds_nothing_wrong(etcd: RealEtcd) -> None:
    shown = etcd.status()
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for member in etcd.members:
        assert f"{member.address}:2379" in shown.stdout
    assert shown.stdout.count("leader") == 1
    assert "2.1 GB" in shown.stdout  # the quota of etcd.env
    answer = json.loads(etcd.status("scaler", "--json").stdout)
    assert answer["ok"]
    assert [member["name"] for member in answer["members"]] == [member.name for member in etcd.members]
    assert all(member["certificate_ends"] for member in answer["members"])
    assert not any("may read more than its prefix" in note for note in answer["notes"])


def test_status_tells_everybody_root_too_that_authentication_is_off(etcd: RealEtcd) -> None:
    assert etcd.etcdctl("auth", "disable").returncode == 0
    try:
        for user in ("scaler", "root"):
            answer = json.loads(etcd.status(user, "--json").stdout)
            assert any(
                "Authentication is off" in note for note in answer["notes"]
            )  # a note, as all of it is on loopback
    finally:
        etcd.authenticate()
    assert not any("Authentication" in note for note in json.loads(etcd.status("root", "--json").stdout)["notes"])


def test_an_etcd_that_anybody_can_use_is_not_well_behind_a_tunnel_either() -> None:
    # Its endpoint is on loopback, and it tells its clients of an address that is not.
    with EtcdProcess(arguments=["--advertise-client-urls=http://10.0.0.5:2379"]) as process:
        shown = scaler_sidecar("etcd", "status", "--etcd", process.endpoint)
        assert shown.returncode == 1
        assert "Problem: Authentication is off" in shown.stdout
        assert "Problem: The connection is not encrypted" in shown.stdout
        meant = scaler_sidecar("etcd", "status", "--etcd", process.endpoint, "--allow-open")
        assert (meant.returncode, "Note: Authentication is off" in meant.stdout) == (0, True)


def test_a_backup_needs_root_and_is_its_owners_alone(etcd: RealEtcd, store: EtcdStore, tmp_path: Path) -> None:
    store.transact([], [Put(f"{PREFIX}kept", "as it was")])
    where = ["--etcd", ",".join(etcd.endpoints), "--identity"]
    refused = scaler_sidecar("etcd", "backup", str(tmp_path / "a.db"), *where, str(etcd.certs / "clients" / "scaler"))
    assert refused.returncode == 3
    assert "root" in refused.stderr
    assert list(tmp_path.iterdir()) == []

    taken = scaler_sidecar("etcd", "backup", str(tmp_path), *where, str(etcd.certs / "clients" / "root"))
    assert taken.returncode == 0, taken.stderr
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = scaler_sidecar("etcd", "backup", str(file), *where, str(etcd.certs / "clients" / "root"))
    assert again.returncode == 2
    assert "--force" in again.stderr

    restored = tmp_path / "restored"
    subprocess.run(
        [str(etcd_binary("etcdctl")), "snapshot", "restore", str(file), f"--data-dir={restored / 'data'}", "--name=etcd",
         "--initial-cluster=etcd=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380"],
        env={**os.environ, "ETCDCTL_API": "3"}, check=True, capture_output=True,
    )  # fmt: skip
    tls = EtcdTls(*(etcd.members[0].folder / name for name in ("ca.pem", "server.pem", "server.key")))
    with EtcdProcess(restored, tls=tls) as process:
        reader = open_as([process.endpoint], etcd.identity("scaler"))
        kept = reader.get(f"{PREFIX}kept")
        reader.close()
    assert kept is not None
    assert kept.value == "as it was"


def test_renewed_certificates_are_taken_up_without_a_restart(etcd: RealEtcd) -> None:
    before = json.loads(etcd.status("scaler", "--json").stdout)["members"]
    renewed = scaler_sidecar("etcd", "certs", str(etcd.certs), "--renew", "--days", "20")
    assert renewed.returncode == 0, renewed.stderr
    install(etcd)
    soon = etcd.status("scaler", "--json")
    after = json.loads(soon.stdout)
    assert all(a["certificate_ends"] < b["certificate_ends"] for a, b in zip(after["members"], before, strict=True))
    assert soon.returncode == 1
    assert sum("Renew it" in problem for problem in after["problems"]) == len(etcd.members) + 1

    assert scaler_sidecar("etcd", "certs", str(etcd.certs)).returncode == 0  # they end soon, so it needs no --renew
    install(etcd)
    assert etcd.status().returncode == 0


def install(etcd: RealEtcd) -> None:
    for member in etcd.members:
        member.install()


def test_without_certificates_status_says_that_etcd_cannot_be_used(etcd: RealEtcd) -> None:
    refused = scaler_sidecar("etcd", "status", "--etcd", f"https://{etcd.endpoints[0]}")
    assert refused.returncode == 3
    assert "certificate" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_lost_member_is_a_problem_with_advice_and_costs_no_call(tmp_path: Path) -> None:
    etcd = RealEtcd(tmp_path)
    try:
        etcd.set_up(3, SystemdUnit())
        etcd.members[1].kill()
        etcd.until_answers()  # it may have been etcd's own leader
        store = etcd.open()
        assert store.transact([], [Put(f"{PREFIX}a", "1")]).succeeded
        store.close()
        shown = etcd.status()
        assert shown.returncode == 1
        assert "etcd-2" in shown.stdout
        assert "if one more fails, nothing can be written" in shown.stdout
        etcd.members[1].start()
        etcd.until_answers([etcd.endpoints[1]])
        assert etcd.status().returncode == 0
    finally:
        etcd.end()


def test_a_member_writes_nowhere_but_into_its_data(etcd: RealEtcd) -> None:
    for member in etcd.members:
        assert sorted(file.name for file in member.folder.iterdir()) == sorted(f.name for f in member.made.iterdir())
        assert (member.data / "member" / "snap" / "db").is_file()


def test_the_compose_file_is_one_by_the_compose_specification() -> None:
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            SERVICE_FILES / "compose.yaml",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in (*SERVICE_FILES.glob("etcd*.*"), *(SERVICE_FILES.parent / "standby").iterdir()):
        text = (
            unit.read_text()
            .replace("/usr/local/bin/scaler-sidecar", "/usr/bin/env")
            .replace("/usr/bin/etcd", "/usr/bin/env")
        )
        (tmp_path / unit.name).write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in checked.stderr.splitlines() if "etcd" in line or "standby" in line]
    assert (checked.returncode, ours) == (0, [])
