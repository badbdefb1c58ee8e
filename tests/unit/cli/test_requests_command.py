"""``drain``, ``undrain``, ``protect`` and ``unprotect``, on a real etcd."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.requests import read_requests_of
from scaler_plugin.coordination.store import Delete, Put, Store
from scaler_plugin.core.model import (
    InstanceId,
    Node,
    NodeIdentity,
    NodeRole,
    NodeState,
    PoolName,
    Slot,
    SlotState,
    TaskId,
)
from scaler_plugin.core.requests import NodeRequests
from scaler_plugin.localcloud.etcd import EtcdProcess, free_port
from scaler_plugin.node.setup import NodeSetup, write_setup

pytestmark = pytest.mark.real

KEYS = Keys("scaler-sidecar", "demo")
IDLE, BUSY, STANDBY = InstanceId("i-idle"), InstanceId("i-busy"), InstanceId("standby-1")


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdProcess]:
    with EtcdProcess() as process:
        yield process


@pytest.fixture
def store(etcd: EtcdProcess) -> Iterator[Store]:
    opened = open_store([etcd.endpoint])
    opened.transact([], [Delete(entry.key) for entry in opened.get_prefix(KEYS.root)])
    for name, role, state in (
        (IDLE, NodeRole.WORKER, SlotState.IDLE),
        (BUSY, NodeRole.WORKER, SlotState.BUSY),
        (STANDBY, NodeRole.STANDBY, None),
    ):
        put_node(opened, name, role, state)
    yield opened
    opened.close()


def identity(name: InstanceId, role: NodeRole = NodeRole.WORKER) -> NodeIdentity:
    return NodeIdentity("demo", name, role, PoolName("gpu") if role is NodeRole.WORKER else None)


def put_node(
    store: Store, name: InstanceId, role: NodeRole, slot: SlotState | None, state: NodeState = NodeState.UP
) -> None:
    task = TaskId("task-1") if slot is SlotState.BUSY else None
    slots = () if slot is None else (Slot(0, slot, 0.0, task),)
    store.transact([], [Put(KEYS.node(name), encode(Node(identity(name, role), state, 0.0, slots)))])


def start(etcd: EtcdProcess | None, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SCALER_")}
    where = {"SCALER_ETCD": etcd.endpoint, "SCALER_CLUSTER": "demo"} if etcd else {}
    return subprocess.Popen(
        [sys.executable, "-m", "scaler_plugin", *arguments],
        env={**kept, **where, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(etcd: EtcdProcess | None, *arguments: str, **environment: str) -> tuple[int, str, str]:
    process = start(etcd, *arguments, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def asked(store: Store, name: InstanceId) -> NodeRequests:
    return read_requests_of(store, KEYS, name)


def test_drain_asks_the_named_nodes_and_undrain_takes_it_back(etcd: EtcdProcess, store: Store) -> None:
    code, out, err = run(etcd, "drain", IDLE)
    assert (code, out, err) == (0, "1 node will finish and end: i-idle.\n", "")
    drain = asked(store, IDLE).drain
    assert drain is not None
    assert re.fullmatch(r".+@.+", drain.by)
    assert asked(store, BUSY).drain is None
    assert run(etcd, "undrain", IDLE)[0] == 0
    assert asked(store, IDLE).drain is None


def test_drain_idle_leaves_busy_nodes_and_drain_all_leaves_standbys(etcd: EtcdProcess, store: Store) -> None:
    assert run(etcd, "drain", "--idle")[0] == 0
    assert [asked(store, name).drain is not None for name in (IDLE, BUSY, STANDBY)] == [True, False, False]
    assert run(etcd, "drain", "--all")[0] == 0
    assert [asked(store, name).drain is not None for name in (IDLE, BUSY, STANDBY)] == [True, True, False]


def test_drain_wait_tells_every_change_and_ends_when_the_nodes_are_gone(etcd: EtcdProcess, store: Store) -> None:
    process = start(etcd, "drain", BUSY, "--wait")
    deadline = time.monotonic() + 30
    while asked(store, BUSY).drain is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.stdout is not None
    assert process.stdout.readline() == "1 node will finish and end: i-busy.\n"
    assert process.stdout.readline() == "i-busy: up, finishes task-1\n"
    put_node(store, BUSY, NodeRole.WORKER, SlotState.BUSY, NodeState.DRAINING)
    assert process.stdout.readline() == "i-busy: draining, finishes task-1\n"
    put_node(store, BUSY, NodeRole.WORKER, SlotState.IDLE, NodeState.RETIRING)
    assert process.stdout.readline() == "i-busy: retiring\n"
    assert process.poll() is None
    store.transact([], [Delete(KEYS.node(BUSY))])
    assert process.communicate(timeout=30) == ("i-busy: gone\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize(
    "arguments", [("drain",), ("drain", "i-idle", "--all"), ("drain", "--all", "--idle"), ("undrain",)]
)
def test_what_to_drain_is_said_in_exactly_one_way(etcd: EtcdProcess, store: Store, arguments: tuple[str, ...]) -> None:
    code, out, err = run(etcd, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Name the nodes")
    assert asked(store, IDLE).drain is None


@pytest.mark.parametrize("command", ["drain", "undrain", "protect", "unprotect"])
def test_a_node_that_is_not_registered_is_a_sentence_and_nothing_is_written(
    etcd: EtcdProcess, store: Store, command: str
) -> None:
    for name in ("i-none", STANDBY):
        code, out, err = run(etcd, command, name)
        assert (code, out) == (2, "")
        assert err == f"No worker {name} is registered in this cluster; `scaler-sidecar status --all` lists them.\n"
    assert not store.get_prefix(KEYS.requests)


def test_protect_says_until_when_and_why_and_unprotect_takes_it_back(etcd: EtcdProcess, store: Store) -> None:
    code, out, _ = run(etcd, "protect", IDLE, "--for", "2h", "--reason", "debugging\nthe loader")
    assert code == 0
    assert re.fullmatch(r"i-idle: Protected until \S+ \S+ UTC by \S+@\S+: debugging the loader\.\n", out)
    protect = asked(store, IDLE).protect
    assert protect is not None
    assert protect.until is not None
    assert abs(protect.until - time.time() - 7200) < 60
    assert run(etcd, "unprotect", IDLE)[0] == 0
    assert asked(store, IDLE).protect is None


def test_protect_without_a_node_means_the_machine_it_runs_on(etcd: EtcdProcess, store: Store, tmp_path: Path) -> None:
    settings = EtcdSettings((etcd.endpoint.removeprefix("http://"),))
    write_setup(tmp_path, NodeSetup(identity(IDLE), settings, "scaler-sidecar"))
    code, out, err = run(None, "protect", SCALER_STATE_DIR=str(tmp_path))
    assert (code, err) == (0, "")
    assert out.startswith("i-idle: Protected by ")
    assert asked(store, IDLE).protect is not None


def test_a_length_that_is_none_is_refused(etcd: EtcdProcess, store: Store) -> None:
    code, _, err = run(etcd, "protect", IDLE, "--for", "2")
    assert code == 2
    assert err.startswith("--for 2: give a duration with its unit")
    assert asked(store, IDLE).protect is None


def test_without_etcd_it_is_one_sentence_and_exit_code_3() -> None:
    code, out, err = run(None, "drain", "--all", SCALER_ETCD=f"127.0.0.1:{free_port()}", SCALER_CLUSTER="demo")
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == 1
