"""``scaler-sidecar run --standby`` as a real process on a real etcd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scaler_plugin.config.load import parse_yaml
from scaler_plugin.coordination.election import LeaderRecord, read_leader
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.published_config import push_config
from scaler_plugin.coordination.store import Store
from scaler_plugin.localcloud.etcd import EtcdProcess
from scaler_plugin.node.control import ask_sidecar

from ...waiting import STARTING_S, until

pytestmark = pytest.mark.real

#: The leader's TTL is longer than anybody waits here.
CONFIG = """
cluster: stand
leader_ttl: 300s
aws: {region: us-east-1, endpoint_url: "http://127.0.0.1:1"}
clearml: {api_host: "http://127.0.0.1:1"}
pools:
  - {name: cpu, queues: [q-1], instance_types: [c5.large], ami: ami-12345678, max_instances: 1}
"""
KEYS = Keys("scaler-sidecar", "stand")


def eventually(condition: Callable[[], object]) -> object:
    return until(condition, patience_s=STARTING_S, every_s=0.02)


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdProcess]:
    with EtcdProcess() as process:
        yield process


@pytest.fixture
def store(etcd: EtcdProcess) -> Iterator[Store]:
    store = open_store([etcd.endpoint])
    push_config(store, KEYS, parse_yaml(CONFIG, "test"))
    yield store
    store.close()


class Standby:
    def __init__(self, etcd: EtcdProcess, directory: Path, manager: socket.socket | None = None) -> None:
        self.directory = directory
        self.log = directory / "log"
        directory.mkdir()
        script = shutil.which("scaler-sidecar", path=str(Path(sys.executable).parent))
        program = [script] if script else [sys.executable, "-m", "scaler_plugin"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SCALER_", "AWS_"))}
        environment |= {
            "SCALER_STATE_DIR": str(directory),
            "CLEARML_API_ACCESS_KEY": "a",
            "CLEARML_API_SECRET_KEY": "b",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
        if manager is not None:
            environment["NOTIFY_SOCKET"] = manager.getsockname()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, "run", "--standby", "--etcd", etcd.endpoint, "--cluster", "stand"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    @property
    def leads(self) -> bool:
        try:
            return ask_sidecar(self.directory, {"ask": "report"})["term"] is not None
        except Exception:  # not up yet
            return False

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def running(standby: Standby) -> Iterator[Standby]:
    try:
        yield standby
    finally:
        standby.process.kill()
        standby.process.wait()


def leader(store: Store) -> LeaderRecord | None:
    return read_leader(store, KEYS)


def test_a_standby_leads_and_hands_over_at_once_on_sigterm(etcd: EtcdProcess, store: Store, tmp_path: Path) -> None:
    with running(Standby(etcd, tmp_path / "a")) as first, running(Standby(etcd, tmp_path / "b")) as second:
        eventually(lambda: first.leads or second.leads)
        leading, waiting = (first, second) if first.leads else (second, first)
        eventually((waiting.directory / "control.sock").exists)
        term = leader(store)
        assert term is not None
        leading.process.send_signal(signal.SIGTERM)
        # A successor before the TTL of 300 s is over has been told.
        eventually(lambda: waiting.leads)
        successor = leader(store)
        assert successor is not None
        assert successor.term > term.term
        assert leading.process.wait(STARTING_S) == 0
        assert leading.events()[-1] == "sidecar_stopped"
        assert not (leading.directory / "control.sock").exists()
        waiting.process.send_signal(signal.SIGTERM)
        assert waiting.process.wait(STARTING_S) == 0
        assert leader(store) is None, "nobody is left, and nobody has to wait for a TTL"


def test_the_process_is_the_one_that_was_started_and_tells_the_service_manager(
    etcd: EtcdProcess, store: Store, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(STARTING_S)
        with running(Standby(etcd, tmp_path / "a", manager)) as standby:
            assert manager.recv(100) == b"READY=1"
            assert manager.recv(100) == b"WATCHDOG=1"
            command = Path(f"/proc/{standby.process.pid}/cmdline").read_bytes().split(b"\0")
            assert b"scaler_plugin.node" in command
            assert not any(etcd.endpoint.encode() in word for word in command)
            standby.process.send_signal(signal.SIGTERM)
            said = b""
            while said != b"STOPPING=1":
                said = manager.recv(100)
            assert standby.process.wait(STARTING_S) == 0


def test_a_standby_waits_for_an_etcd_that_is_not_there_yet(store: Store, tmp_path: Path) -> None:
    late = EtcdProcess()
    try:
        late.start()
        late.stop()
        with running(Standby(late, tmp_path / "a")) as standby:
            eventually(lambda: "etcd_away" in standby.events())
            assert standby.process.poll() is None
            late.restart()
            other = open_store([late.endpoint])
            push_config(other, KEYS, parse_yaml(CONFIG, "test"))
            other.close()
            eventually(lambda: standby.leads)
    finally:
        late.stop()
        late.remove()


def test_without_a_cluster_it_says_so_and_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scaler_plugin", "run", "--standby"],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("SCALER_")},
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No cluster is named" in done.stderr


def test_a_machine_that_was_not_set_up_says_so_and_ends(tmp_path: Path) -> None:
    for command in (["scaler_plugin", "run"], ["scaler_plugin.node"]):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            env={**os.environ, "SCALER_STATE_DIR": str(tmp_path)},
            check=False,
        )
        assert done.returncode == 1
        assert "This machine has not been set up" in done.stderr
        assert "Traceback" not in done.stderr
