"""The store on a real etcd when connections break, endpoints die or hang, and etcd wants certificates and passwords."""

from __future__ import annotations

import datetime
import ipaddress
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scaler_plugin.coordination import etcd_store
from scaler_plugin.coordination.etcd_store import EtcdStore, open_store
from scaler_plugin.coordination.store import CreatedAt, Put
from scaler_plugin.errors import ConfigError, StoreRefused, StoreUnavailable
from scaler_plugin.localcloud.etcd import EtcdCluster, EtcdProcess, EtcdTls, etcd_binary, free_port

from ..waiting import PATIENCE_S, until

pytestmark = pytest.mark.real


def answers(store: EtcdStore) -> bool:
    try:
        store.get("/x")
    except StoreUnavailable:
        return False
    return True


@pytest.fixture
def etcd() -> Iterator[EtcdProcess]:
    with EtcdProcess() as process:
        yield process


@pytest.fixture
def cluster() -> Iterator[EtcdCluster]:
    with EtcdCluster(3) as members:
        yield members


@pytest.fixture
def opened() -> Iterator[list[EtcdStore]]:
    stores: list[EtcdStore] = []
    yield stores
    for store in stores:
        store.close()


def test_an_etcd_that_is_not_there_is_a_sentence_with_its_endpoint() -> None:
    port = free_port()
    store = open_store([f"127.0.0.1:{port}"])
    with pytest.raises(StoreUnavailable, match=f"etcd at 127.0.0.1:{port} did not answer.*check"):
        store.get("/a")
    store.close()


def test_an_etcd_that_hangs_is_given_up_after_the_timeout(etcd: EtcdProcess, opened: list[EtcdStore]) -> None:
    store = open_store([etcd.endpoint], timeout_s=0.5)
    opened.append(store)
    until(lambda: answers(store))
    etcd.suspend()
    with pytest.raises(StoreUnavailable, match=r"within 0\.5 s"):
        store.transact([], [Put("/a", "1")])
    etcd.resume()
    until(lambda: answers(store))


def test_a_closed_store_says_so(etcd: EtcdProcess) -> None:
    store = open_store([etcd.endpoint])
    store.get("/a")
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.get("/a")


def test_data_and_leases_survive_a_restart_and_the_first_call_after_it_succeeds(
    etcd: EtcdProcess, opened: list[EtcdStore]
) -> None:
    store = open_store([etcd.endpoint])
    opened.append(store)
    lease = store.grant_lease(60)
    store.transact([], [Put("/a", "1", lease)])
    etcd.restart()
    entry = store.get("/a")
    assert entry is not None
    assert entry.lease == lease
    store.keep_alive(lease)


def test_a_watch_is_called_once_after_its_stream_broke_and_then_works_again(
    etcd: EtcdProcess, opened: list[EtcdStore]
) -> None:
    store = open_store([etcd.endpoint])
    opened.append(store)
    woken = threading.Event()
    store.watch("/a", woken.set)
    etcd.kill()
    etcd.restart()
    assert woken.wait(PATIENCE_S)
    woken.clear()
    until(lambda: answers(store))
    store.transact([], [Put("/a", "1")])
    assert woken.wait(PATIENCE_S)


def test_a_watch_begun_while_etcd_was_away_is_called_once_it_is_back(
    etcd: EtcdProcess, opened: list[EtcdStore]
) -> None:
    etcd.stop()
    store = open_store([etcd.endpoint], timeout_s=0.2)
    opened.append(store)
    woken = threading.Event()
    store.watch("/a", woken.set)
    etcd.restart()
    assert woken.wait(PATIENCE_S)


def test_all_watches_of_a_store_share_their_threads(etcd: EtcdProcess, opened: list[EtcdStore]) -> None:
    store = open_store([etcd.endpoint])
    opened.append(store)
    store.watch("/0", lambda: None)
    before = threading.active_count()
    for number in range(1, 20):
        store.watch(f"/{number}", lambda: None)
    assert threading.active_count() == before


def test_a_read_over_a_compaction_is_begun_anew(
    etcd: EtcdProcess, opened: list[EtcdStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store([etcd.endpoint])
    opened.append(store)
    monkeypatch.setattr(etcd_store, "PAGE", 2)
    for number in range(5):
        store.transact([], [Put(f"/n/{number}", "1")])
    real, compacted = store._ask_kv, threading.Event()

    def compact_after_first_page(method: str, request: object, *, repeatable: bool) -> object:
        answer = real(method, request, repeatable=repeatable)
        if not compacted.is_set():
            compacted.set()
            revision = store.transact([], [Put("/n/5", "1")]).revision
            etcdctl(etcd, "compact", str(revision))
        return answer

    monkeypatch.setattr(store, "_ask_kv", compact_after_first_page)
    assert len(store.get_prefix("/n/")) == 6


def test_ten_thousand_nodes_are_read_at_one_revision(etcd: EtcdProcess, opened: list[EtcdStore]) -> None:
    store = open_store([etcd.endpoint])
    opened.append(store)
    for start in range(0, 10_000, 100):
        store.transact([], [Put(f"/n/{number:05d}", "x" * 600) for number in range(start, start + 100)])
    began = time.perf_counter()
    assert len(store.get_prefix("/n/")) == 10_000
    print(f"10,000 nodes read in {time.perf_counter() - began:.3f} s")


@pytest.mark.parametrize("accident", ["kill", "suspend"])
def test_losing_one_of_three_members_costs_no_call_but_the_write_under_way(
    cluster: EtcdCluster, opened: list[EtcdStore], accident: str
) -> None:
    for lost in cluster.members:
        # The lost member stands first, so the store is connected to it.
        others = [member.endpoint for member in cluster.members if member is not lost]
        store = open_store([lost.endpoint, *others], timeout_s=9.0)
        opened.append(store)
        woken = threading.Event()
        store.watch("/w", woken.set)
        lease = store.grant_lease(30)
        store.transact([], [Put("/a", "1", lease)])
        lost.kill() if accident == "kill" else lost.suspend()
        began = time.perf_counter()
        assert store.get("/a") is not None
        store.keep_alive(lease)
        assert store.transact([], [Put("/a", "2", lease)]).succeeded
        print(f"{accident}: read, renewed and wrote {time.perf_counter() - began:.2f} s after the loss")
        woken.clear()
        store.transact([], [Put("/w", "1")])
        assert woken.wait(PATIENCE_S)
        if accident == "kill":
            lost.restart()
        else:
            lost.resume()
        until(lambda member=lost: answers_alone(member))  # type: ignore[misc]


def answers_alone(member: EtcdProcess) -> bool:
    store = open_store([member.endpoint])
    try:
        return answers(store)
    finally:
        store.close()


def test_a_member_without_quorum_is_a_sentence(cluster: EtcdCluster, opened: list[EtcdStore]) -> None:
    store = open_store([cluster.members[0].endpoint], timeout_s=0.5)
    opened.append(store)
    until(lambda: answers(store))
    cluster.members[1].kill()
    cluster.members[2].kill()
    with pytest.raises(StoreUnavailable, match=r"majority|check"):
        store.transact([], [Put("/a", "1")])


def test_dead_endpoints_before_a_living_one_do_not_matter(etcd: EtcdProcess, opened: list[EtcdStore]) -> None:
    store = open_store([f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}", f"localhost:{etcd.port}"])
    opened.append(store)
    assert store.transact([CreatedAt("/a", 0)], [Put("/a", "1")]).succeeded


@pytest.mark.parametrize("endpoints", [[], [""], ["http://"], ["a:b"], ["ftp://a:1"], ["http://a/path"], ["a:99999"]])
def test_endpoints_that_cannot_be_meant_are_refused(endpoints: list[str]) -> None:
    with pytest.raises(ConfigError):
        open_store(endpoints)


def test_half_a_set_of_credentials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cert and key"):
        open_store(["a:1"], cert=tmp_path / "c")
    with pytest.raises(ConfigError, match="user and a password"):
        open_store(["a:1"], user="u")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_store(["a:1"], ca=tmp_path / "missing")
    (tmp_path / "ca").write_text("")
    with pytest.raises(ConfigError, match="https://"):
        open_store(["http://a:1"], ca=tmp_path / "ca")


# --- user and password


def etcdctl(etcd: EtcdProcess, *arguments: str) -> None:
    subprocess.run(
        [str(etcd_binary("etcdctl")), f"--endpoints={etcd.endpoint}", *arguments],
        env={**os.environ, "ETCDCTL_API": "3"},
        check=True,
        capture_output=True,
    )


@pytest.fixture
def guarded() -> Iterator[EtcdProcess]:
    """An etcd whose tokens live two seconds; user ``node`` may use ``/scaler/`` only."""
    with EtcdProcess(arguments=["--auth-token-ttl=2"]) as process:
        etcdctl(process, "user", "add", "root:top")
        etcdctl(process, "user", "grant-role", "root", "root")
        etcdctl(process, "role", "add", "scaler")
        etcdctl(process, "role", "grant-permission", "scaler", "readwrite", "--prefix=true", "/scaler/")
        etcdctl(process, "user", "add", "node:secret")
        etcdctl(process, "user", "grant-role", "node", "scaler")
        etcdctl(process, "auth", "enable")
        yield process


def test_a_user_with_a_password_may_do_everything_the_port_offers(
    guarded: EtcdProcess, opened: list[EtcdStore]
) -> None:
    store = open_store([guarded.endpoint], user="node", password="secret")
    opened.append(store)
    woken = threading.Event()
    store.watch("/scaler/", woken.set)
    lease = store.grant_lease(30)
    assert store.transact([CreatedAt("/scaler/a", 0)], [Put("/scaler/a", "1", lease)]).succeeded
    assert woken.wait(PATIENCE_S)
    store.keep_alive(lease)
    assert len(store.get_prefix("/scaler/")) == 1
    store.revoke_lease(lease)
    assert store.get("/scaler/a") is None


def test_an_expired_token_is_renewed_without_the_caller_noticing(guarded: EtcdProcess, opened: list[EtcdStore]) -> None:
    store = open_store([guarded.endpoint], user="node", password="secret")
    opened.append(store)
    store.transact([], [Put("/scaler/a", "0")])
    first = store._connections._token

    def renewed() -> bool:
        time.sleep(2.5)  # longer than a token lives: each use makes it live on
        store.transact([], [Put("/scaler/a", "1")])
        return store._connections._token != first

    until(renewed)


def test_tokens_lost_in_a_restart_are_renewed_for_calls_and_watches(
    guarded: EtcdProcess, opened: list[EtcdStore]
) -> None:
    store = open_store([guarded.endpoint], user="node", password="secret")
    opened.append(store)
    woken = threading.Event()
    store.watch("/scaler/", woken.set)
    guarded.restart()
    assert woken.wait(PATIENCE_S)
    woken.clear()
    store.transact([], [Put("/scaler/a", "1")])
    assert woken.wait(PATIENCE_S)


@pytest.mark.parametrize(
    ("user", "password", "says"),
    [
        ("node", "wrong", "'node' or the password"),
        ("nobody", "x", "'nobody' or the password"),
        (None, None, "etcd.user"),
    ],
)
def test_wrong_credentials_are_a_sentence(
    guarded: EtcdProcess, opened: list[EtcdStore], user: str | None, password: str | None, says: str
) -> None:
    store = open_store([guarded.endpoint], user=user, password=password)
    opened.append(store)
    with pytest.raises(StoreRefused, match=says):
        store.get("/scaler/a")


def test_a_missing_permission_is_a_sentence_and_a_watch_on_it_disturbs_nobody(
    guarded: EtcdProcess, opened: list[EtcdStore]
) -> None:
    store = open_store([guarded.endpoint], user="node", password="secret")
    opened.append(store)
    with pytest.raises(StoreRefused, match="does not permit"):
        store.get("/other/a")
    store.watch("/other/", lambda: None)
    assert store.transact([], [Put("/scaler/a", "1")]).succeeded


def test_the_password_shows_in_no_representation() -> None:
    store = open_store(["a:1"], user="node", password="secret")
    assert "secret" not in repr(store._connections.access) + str(store._connections.access)


# --- TLS


@dataclass(frozen=True)
class Certificates:
    ca: Path
    server: EtcdTls
    client_cert: Path
    client_key: Path
    other_ca: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    ca_key, ca = _certificate("test CA", None)
    server_key, server = _certificate("server", (ca_key, ca), ["localhost"], ["127.0.0.1"])
    client_key, client = _certificate("client", (ca_key, ca))
    _, other = _certificate("another CA", None)

    def write(name: str, content: bytes) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    ca_file = write("ca.pem", _pem(ca))
    tls = EtcdTls(ca_file, write("server.pem", _pem(server)), write("server.key", _key_pem(server_key)))
    return Certificates(
        ca_file,
        tls,
        write("client.pem", _pem(client)),
        write("client.key", _key_pem(client_key)),
        write("other.pem", _pem(other)),
    )


def _certificate(
    name: str,
    issuer: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None,
    hosts: list[str] | None = None,
    addresses: list[str] | None = None,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [
        *(x509.DNSName(host) for host in hosts or ()),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses or ()),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[1].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return key, builder.sign(issuer[0] if issuer else key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="module")
def encrypted(certificates: Certificates) -> Iterator[EtcdProcess]:
    with EtcdProcess(tls=certificates.server) as process:
        yield process


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "https://localhost"])
def test_tls_with_a_client_certificate_works_by_address_and_by_name(
    encrypted: EtcdProcess, certificates: Certificates, opened: list[EtcdStore], host: str
) -> None:
    store = open_store(
        [f"{host}:{encrypted.port}"],
        ca=certificates.ca,
        cert=certificates.client_cert,
        key=certificates.client_key,
    )
    opened.append(store)
    woken = threading.Event()
    store.watch("/a", woken.set)
    store.transact([], [Put("/a", "1")])
    assert woken.wait(PATIENCE_S)


def test_an_etcd_that_speaks_tls_only_and_is_asked_in_the_clear_is_not_taken_for_one_that_is_off(
    encrypted: EtcdProcess, opened: list[EtcdStore]
) -> None:
    plain = open_store([f"127.0.0.1:{encrypted.port}"])
    opened.append(plain)
    with pytest.raises(StoreUnavailable, match="may speak TLS only: give --config, --identity or SCALER_ETCD_CA"):
        plain.get("/a")


def test_tls_errors_are_sentences(encrypted: EtcdProcess, certificates: Certificates, opened: list[EtcdStore]) -> None:
    client = {"cert": certificates.client_cert, "key": certificates.client_key}
    cases = {
        "a CA that did not sign it": open_store([encrypted.endpoint], ca=certificates.other_ca, **client),
        "no client certificate": open_store([encrypted.endpoint], ca=certificates.ca),
        "no TLS": open_store([f"http://127.0.0.1:{encrypted.port}"]),
    }
    opened.extend(cases.values())
    for store in cases.values():
        with pytest.raises(StoreUnavailable, match="check"):
            store.get("/a")


# --- the process around it


def test_importing_etcd3_leaves_the_environment_as_it_was() -> None:
    code = (
        "import os; before = dict(os.environ)\n"
        "import scaler_plugin.coordination.etcd_store\n"
        "assert dict(os.environ) == before, 'the environment has changed'\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_etcd_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from scaler_plugin.localcloud.etcd import EtcdProcess\n"
        "etcd = EtcdProcess(Path(sys.argv[1]))\n"
        "thread = threading.Thread(target=etcd.start); thread.start(); thread.join()\n"
        "print(etcd.pid, etcd.endpoint, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid, endpoint = parent.stdout.readline().split()
        store = open_store([endpoint])
        store.get("/a")  # outlives the thread that started it
        store.close()
    finally:
        parent.kill()
        parent.communicate()
    until(lambda: not _alive(int(pid)))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_folder_made_for_etcd_is_removed_with_it() -> None:
    process = EtcdProcess()
    folder = process._folder
    with process:
        assert folder.exists()
    assert not folder.exists()
