"""The health gate: a fit machine passes, another ends itself with the reason and its own words in etcd."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import Cut, MemoryStore
from scaler_plugin.coordination.published_config import push_config
from scaler_plugin.core.health import DiskSpace, HealthCheck, HealthPolicy, Vitals
from scaler_plugin.core.model import InstanceId, Load, NodeIdentity, NodeRole, PoolName
from scaler_plugin.errors import HostError
from scaler_plugin.node.failed_boot import evidence
from scaler_plugin.node.health_gate import check_environment, health_policy, run_gate, why_unfit
from scaler_plugin.node.hooks import ShellHooks
from scaler_plugin.node.setup import NodeSetup
from scaler_plugin.node.vitals import Equipment, VitalSigns
from scaler_plugin.simulation.clock import VirtualClock

KEYS = Keys("p", "c")
CONFIG = """
cluster: c
prefix: p
pools:
  - name: cpu
    queues: [default]
    instance_types: [c5.large]
    ami: ami-12345678
    max_instances: 1
    min_free_disk_gb: %d
    checks:
      - {script: "test -e %s", timeout: 5s}
"""
SETUP = NodeSetup(
    NodeIdentity("c", InstanceId("i-1"), NodeRole.WORKER, PoolName("cpu"), "c5.large"),
    EtcdSettings(("etcd:2379",)),
    "p",
)


class Host:
    def __init__(self) -> None:
        self.shutdowns: list[str] = []

    def load(self) -> Load:
        return Load(0, 0)

    def vitals(self) -> Vitals:
        return Vitals()

    def shut_down(self, reason: str) -> None:
        self.shutdowns.append(reason)


class Signs(VitalSigns):
    def __init__(self, vitals: Vitals) -> None:
        super().__init__(Equipment())
        self.vitals = vitals

    def look(self) -> Vitals:
        return self.vitals


@pytest.fixture
def etcd(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    etcd = MemoryStore(VirtualClock())
    monkeypatch.setattr(EtcdSettings, "open", lambda _self: etcd.client("i-1"))
    return etcd


def publish(etcd: MemoryStore, mark: Path, min_free_disk_gb: int = 0) -> None:
    push_config(etcd.client("people"), KEYS, parse_yaml(CONFIG % (min_free_disk_gb, mark), "test"))


def test_a_fit_machine_passes(etcd: MemoryStore, tmp_path: Path) -> None:
    publish(etcd, tmp_path)
    host = Host()
    run_gate(SETUP, ShellHooks(), host, patience_s=0)
    assert host.shutdowns == []
    assert read_events(etcd.client("people"), KEYS) == ()


def test_a_machine_with_too_little_disk_ends_itself_with_the_reason_and_its_own_words_in_etcd(
    etcd: MemoryStore, tmp_path: Path
) -> None:
    publish(etcd, tmp_path, min_free_disk_gb=65_536)
    host = Host()
    with pytest.raises(HostError, match="nearly full"):
        run_gate(SETUP, ShellHooks(), host, patience_s=0)
    assert len(host.shutdowns) == 1
    (event,) = read_events(etcd.client("people"), KEYS)
    assert (event.kind, event.about) == ("start_failed", "i-1")
    assert "nearly full" in event.sentence
    assert "$ df -h" in event.detail


def test_the_pools_own_check_counts_at_the_gate(etcd: MemoryStore, tmp_path: Path) -> None:
    publish(etcd, tmp_path / "missing")
    host = Host()
    with pytest.raises(HostError, match=r"The check no\. 1 ended with exit code 1"):
        run_gate(SETUP, ShellHooks(), host, patience_s=0)
    assert len(host.shutdowns) == 1


def test_a_machine_that_becomes_fit_in_time_passes(
    etcd: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    publish(etcd, mark)
    monkeypatch.setattr("scaler_plugin.node.health_gate.time.sleep", lambda _s: mark.touch())
    run_gate(SETUP, ShellHooks(), host := Host())
    assert host.shutdowns == []


def test_a_machine_that_cannot_reach_etcd_ends_itself_all_the_same(etcd: MemoryStore, tmp_path: Path) -> None:
    publish(etcd, tmp_path)
    etcd.client("i-1").partition(Cut.BEFORE_EFFECT)
    host = Host()
    with pytest.raises(HostError, match="no toolkit"):
        run_gate(SETUP, ShellHooks(), host, known_reason="There is no toolkit.", patience_s=0)
    assert host.shutdowns == ["There is no toolkit."]


def test_without_a_configuration_the_defaults_are_expected(etcd: MemoryStore) -> None:
    assert health_policy(SETUP) == HealthPolicy()


def test_a_check_that_hangs_is_killed_and_one_that_cannot_be_run_ends_no_machine() -> None:
    signs = Signs(Vitals(disks=(DiskSpace("/", 10**12),)))
    hanging = HealthPolicy(checks=(HealthCheck("slow", "sleep 60", 60, 0.2),))
    assert "did not end within" in (why_unfit(signs, hanging, ShellHooks(), {}) or "")
    missing = HealthPolicy(checks=(HealthCheck("lost", "/opt/no/such/check", 60, 5),))
    assert why_unfit(signs, missing, ShellHooks(), {}) is None


def test_what_a_check_prints_is_told_without_its_secrets() -> None:
    signs = Signs(Vitals(disks=(DiskSpace("/", 10**12),)))
    telling = HealthPolicy(checks=(HealthCheck("nfs", "echo mount refused: password=hunter2; exit 1", 60, 5),))
    reason = why_unfit(signs, telling, ShellHooks(), {})
    assert reason is not None
    assert "mount refused" in reason
    assert "hunter2" not in reason


def test_a_check_is_told_where_it_runs() -> None:
    script = 'test "$SCALER_INSTANCE_ID $SCALER_POOL $SCALER_INSTANCE_TYPE" = "i-1 cpu c5.large"'
    policy = HealthPolicy(0, (HealthCheck("where", script, 60, 5),))
    assert why_unfit(Signs(Vitals()), policy, ShellHooks(), check_environment(SETUP)) is None


def test_what_cannot_be_asked_is_left_out_of_the_evidence() -> None:
    assert evidence((("no-such-program",), ("echo", "hello"))) == "$ echo hello\nhello\n"
