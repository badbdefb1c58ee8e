"""From metadata and user-data to a machine that is set up: all of it, or nothing and a sentence."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from scaler_plugin.cloud.metadata import InstanceFacts, MemoryMetadata
from scaler_plugin.cloud.user_data import EtcdAccess, UserData
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import MemoryClient, MemoryStore
from scaler_plugin.coordination.published_config import push_config
from scaler_plugin.core.model import InstanceId, LaunchId, Market, NodeRole, PoolName
from scaler_plugin.errors import CloudUnavailable, ConfigError, HostError, ScalerError, StoreUnavailable
from scaler_plugin.node import boot as boot_module
from scaler_plugin.node.boot import INIT_SCRIPT_TIMEOUT_S, boot, init_script_time
from scaler_plugin.node.setup import read_setup
from scaler_plugin.simulation.clock import VirtualClock

CONFIG = """
cluster: c
prefix: p
clearml: {api_host: 'http://api:8008', access_key: 'env:AK', secret_key: 'env:SK'}
pools:
  - name: gpu
    queues: [first, second]
    instance_types: [g5.xlarge]
    ami: ami-12345678
    max_instances: 1
    slots_per_node: 2
    docker_image: nvidia/cuda:12
    init_script: |
      printf done > "$MARK"
"""
DATA = UserData("c", NodeRole.WORKER, EtcdAccess(("etcd:2379",)), "p", PoolName("gpu"), LaunchId("l-1"))


class Machine:
    def __init__(self, tmp_path: Path) -> None:
        self.etcd = MemoryStore(VirtualClock())
        self.store: MemoryClient = self.etcd.client("people")
        self.directory = tmp_path / "run"
        self.mark = tmp_path / "mark"
        self.metadata = MemoryMetadata(
            InstanceFacts(InstanceId("i-1"), "g5.xlarge", "eu-1a", "eu-1", Market.SPOT, DATA.render())
        )
        self.publish(CONFIG)

    def publish(self, text: str) -> None:
        push_config(self.store, Keys("p", "c"), parse_yaml(text, "test"))

    def told(self) -> list[tuple[str, str, str]]:
        return [(event.kind, event.about, event.sentence) for event in read_events(self.store, Keys("p", "c"))]

    def boots(self, times: int = 1) -> None:
        """The service manager starts it again and again."""
        for _ in range(times):
            with pytest.raises(ScalerError):
                boot(self.metadata, self.directory)

    def nothing_is_left(self) -> bool:
        return not (self.directory / "node.json").exists()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(EtcdSettings, "open", lambda _self: made.etcd.client("i-1"))
    monkeypatch.setenv("AK", "access")
    monkeypatch.setenv("SK", "secret")
    monkeypatch.setenv("MARK", str(made.mark))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CLEARML_CONFIG_FILE", raising=False)
    return made


def test_a_booted_machine_knows_what_it_is_and_has_run_its_init_script(machine: Machine) -> None:
    setup = boot(machine.metadata, machine.directory)
    assert read_setup(machine.directory) == setup
    assert setup.identity.worker_id(0, 2) == "c:gpu:g5.xlarge:i-1:0"
    assert (setup.identity.market, setup.identity.zone, setup.identity.launch_id) == (Market.SPOT, "eu-1a", "l-1")
    assert (setup.slots, setup.queues, setup.docker_image) == (2, ("first", "second"), "nvidia/cuda:12")
    assert setup.etcd.endpoints == ("etcd:2379",)
    assert machine.mark.read_text() == "done"


def test_secrets_are_in_the_agents_file_alone_and_only_for_its_user(machine: Machine) -> None:
    boot(machine.metadata, machine.directory)
    conf = machine.directory / "clearml.conf"
    assert '"secret"' in conf.read_text()
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600
    assert "secret" not in (machine.directory / "node.json").read_text()


def test_an_init_script_that_fails_leaves_no_setup_so_nothing_starts(machine: Machine) -> None:
    machine.publish(CONFIG.replace('printf done > "$MARK"', "exit 7"))
    with pytest.raises(HostError, match="failed with exit code 7"):
        boot(machine.metadata, machine.directory)
    assert machine.nothing_is_left()


@pytest.mark.parametrize(
    ("startup_timeout_s", "up_s", "time_s"),
    [
        (600.0, 40.0, 560.0),
        (600.0, 599.0, 1.0),
        (600.0, 86_400.0, 600.0),  # a machine that was up already
        (21_600.0, 40.0, INIT_SCRIPT_TIMEOUT_S),
    ],
)
def test_an_init_script_has_what_is_left_of_the_startup_timeout(
    startup_timeout_s: float, up_s: float, time_s: float
) -> None:
    assert init_script_time(startup_timeout_s, up_s) == time_s


def test_an_init_script_that_hangs_is_a_sentence_before_the_instance_is_ended_for_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_module, "uptime", lambda: 599.8)
    machine.publish(CONFIG.replace('printf done > "$MARK"', "exec sleep 600"))
    with pytest.raises(HostError, match="did not end within 0 s, the time that startup_timeout leaves it"):
        boot(machine.metadata, machine.directory)
    assert machine.nothing_is_left()


def test_a_pool_that_is_not_in_the_configuration_is_a_sentence(machine: Machine) -> None:
    machine.publish(CONFIG.replace("name: gpu", "name: other"))
    with pytest.raises(
        ConfigError, match="was launched for pool gpu, which the configuration of cluster c does not have"
    ):
        boot(machine.metadata, machine.directory)
    assert machine.nothing_is_left()


def test_without_a_configuration_it_says_how_to_push_one(machine: Machine) -> None:
    machine.etcd.wipe()
    with pytest.raises(ConfigError, match="config push"):
        boot(machine.metadata, machine.directory)


def test_a_missing_secret_leaves_no_setup(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SK")
    with pytest.raises(ConfigError, match="env:SK"):
        boot(machine.metadata, machine.directory)
    assert machine.nothing_is_left()


def test_without_etcd_or_metadata_it_fails_and_is_started_again(machine: Machine) -> None:
    machine.etcd.stop()
    with pytest.raises(StoreUnavailable):
        boot(machine.metadata, machine.directory)
    machine.metadata.reachable = False
    with pytest.raises(CloudUnavailable):
        boot(machine.metadata, machine.directory)
    assert machine.nothing_is_left()
    machine.metadata.reachable = True
    machine.etcd.start()
    boot(machine.metadata, machine.directory)
    boot(machine.metadata, machine.directory)


def test_a_probe_is_set_up_without_slots_script_or_clearml_configuration(machine: Machine) -> None:
    probe = UserData("c", NodeRole.PROBE, EtcdAccess(("etcd:2379",)), "p").render()
    machine.metadata.facts = InstanceFacts(InstanceId("i-2"), "t3.micro", "eu-1a", "eu-1", user_data=probe)
    setup = boot(machine.metadata, machine.directory)
    assert (setup.identity.role, setup.identity.pool, setup.slots) == (NodeRole.PROBE, None, 0)
    assert read_setup(machine.directory) == setup
    assert not machine.mark.exists(), "the init script is a pool's"
    assert sorted(path.name for path in machine.directory.iterdir()) == ["node.json", "startup_timeout"]


def test_a_probe_that_cannot_read_the_configuration_leaves_the_deadman_a_short_time(machine: Machine) -> None:
    machine.metadata.facts = InstanceFacts(
        InstanceId("i-2"), user_data=UserData("c", NodeRole.PROBE, EtcdAccess(("etcd:2379",)), "elsewhere").render()
    )
    with pytest.raises(ConfigError, match="No configuration is published"):
        boot(machine.metadata, machine.directory)
    assert machine.nothing_is_left()
    assert int((machine.directory / "startup_timeout").read_text()) <= 120


@pytest.mark.parametrize("cause", ["pool", "secret", "configuration", "script", "machine"])
def test_why_it_cannot_become_a_node_is_told_in_etcd_once_however_often_it_tries(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    sentence = {
        "pool": "was launched for pool gpu, which",
        "secret": "env:SK",
        "configuration": "No configuration is published",
        "script": "failed with exit code 7",
        "machine": "names the user nobody-here",
    }[cause]
    if cause == "pool":
        machine.publish(CONFIG.replace("name: gpu", "name: other"))
    elif cause == "secret":
        monkeypatch.delenv("SK")
    elif cause == "configuration":
        machine.etcd.wipe()
    elif cause == "script":
        machine.publish(CONFIG.replace('printf done > "$MARK"', "exit 7"))
    else:
        monkeypatch.setenv("SCALER_AGENT_USER", "nobody-here")
    machine.boots(3)
    ((kind, about, said),) = machine.told()
    assert (kind, about) == ("start_failed", "i-1")
    assert said.startswith("Instance i-1 could not be set up: ")
    assert sentence in said


def test_another_reason_is_told_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.etcd.wipe()
    machine.boots(2)
    machine.publish(CONFIG)
    monkeypatch.delenv("SK")
    machine.boots(2)
    assert [said.partition("set up: ")[2][:20] for _, _, said in machine.told()] == [
        "No configuration is ",
        "The secret env:SK ca",
    ]


def test_a_probe_tells_too(machine: Machine) -> None:
    probe = UserData("c", NodeRole.PROBE, EtcdAccess(("etcd:2379",)), "p").render()
    machine.metadata.facts = InstanceFacts(InstanceId("i-2"), user_data=probe)
    machine.etcd.wipe()
    machine.boots(2)
    assert [about for _, about, _ in machine.told()] == ["i-2"]


def test_a_state_directory_that_cannot_be_used_is_told_once_all_the_same(machine: Machine) -> None:
    machine.directory.write_text("a file")
    machine.boots(3)
    ((_, _, said),) = machine.told()
    assert "The state directory" in said


def test_a_machine_whose_etcd_is_away_tells_as_soon_as_it_is_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SK")
    machine.etcd.stop()
    machine.boots()
    machine.etcd.start()
    assert machine.told() == []
    machine.boots()
    assert len(machine.told()) == 1
