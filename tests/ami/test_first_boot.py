"""A stock image: the distribution's own cloud-init takes the user-data of leaders and bootstrap at the first boot of a plain
Debian, and a node comes of it; or a machine that says why not, and ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaler_plugin.cloud.user_data import parse_user_data
from scaler_plugin.core.console_output import read_console
from scaler_plugin.core.model import NodeRole

from .machine import wait_for
from .stage import POOL
from .stock_image import StockStage, pack_bundle

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

#: On a shared machine with two cores: a minute of apt and pip, and room.
FIRST_BOOT_S = 900.0
#: nspawn's exit code when its machine reboots.
REBOOTED = 133
LIMIT = "scaler-first-boot-limit.timer"

NewStage = Callable[[str], StockStage]


@pytest.fixture(scope="module")
def new_stage(tmp_path_factory: pytest.TempPathFactory, artifacts: Path, tools: None) -> Iterator[NewStage]:
    bundle = pack_bundle(tmp_path_factory.mktemp("bundle"))
    made: dict[str, StockStage] = {}

    def new(name: str) -> StockStage:
        made[name] = StockStage(bundle, tmp_path_factory.mktemp(name), f"stock-{os.getpid()}-{len(made)}")
        return made[name]

    yield new
    for name, stage in made.items():
        (artifacts / f"first-boot-{name}.log").write_text(stage.machine.console)
        stage.close()


@pytest.fixture(scope="module")
def node(new_stage: NewStage, artifacts: Path) -> StockStage:
    """A node on a stock image, idle."""
    stage = new_stage("node")
    stage.launch(stage.user_data())
    ends = ("scaler-sidecar: ready", "This is no node")
    wait_for("the first boot's end", lambda: any(end in stage.machine.console for end in ends), FIRST_BOOT_S)
    stage.wait_polling()
    uptime = stage.machine.run("cut", "-d", " ", "-f", "1", "/proc/uptime").strip()
    (artifacts / "first-boot.txt").write_text(
        f"From kernel start to an agent that polls, on a stock image: {uptime} s\n"
    )
    return stage


def test_cloud_init_makes_a_node_and_the_sidecar_finds_its_own_part_of_the_user_data(node: StockStage) -> None:
    machine = node.machine
    assert json.loads(machine.run("cat", "/run/scaler-sidecar/node.json"))["identity"]["pool"] == POOL
    for unit in ("scaler-firewall.service", "scaler-deadman.timer", "scaler-bootstrap.service"):
        assert machine.property_of(unit, "ActiveState") == "active", unit
    assert machine.property_of(LIMIT, "ActiveState") == "inactive"
    assert "DEADMAN_GRACE_S=" in machine.property_of("scaler-deadman.service", "Environment")
    assert machine.try_run("sh", "-c", "command -v dockerd").returncode != 0  # only if the pool wants it


def test_cloud_init_finds_nothing_in_it_to_warn_of(node: StockStage) -> None:
    log = node.machine.run("cat", "/var/log/cloud-init.log")
    assert "cloud_name=aws" in log  # it was on EC2, as far as it could see, and read the user-data with a token
    assert "Discarding 1 multipart messages which do not match launch index 0" in log
    for complaint in ("Unhandled", "Invalid cloud-config", "bootcmd", "write-files", "runcmd", "scripts-user"):
        assert [line for line in log.splitlines() if "WARNING" in line and complaint in line] == []


def test_after_a_reboot_it_is_a_node_at_once_and_no_limit_runs(node: StockStage) -> None:
    machine = node.machine
    machine.run("systemctl", "reboot", check=False)
    assert machine.wait_ended() == REBOOTED
    installed = machine.console.count("scaler-sidecar: ready")
    machine.start()
    node.wait_polling()
    wait_for("cloud-init's end", lambda: machine.property_of("cloud-final.service", "ActiveState") == "active")
    assert machine.console.count("scaler-sidecar: ready") == installed
    assert machine.property_of(LIMIT, "ActiveState") == "inactive"
    assert machine.property_of("scaler-deadman.service", "Environment") == ""


def test_as_a_leader_it_launches_further_stock_images_with_the_same_user_data(node: StockStage) -> None:
    own = node.user_data(max_instances=2)
    for _ in range(2):
        node.enqueue("import time\ntime.sleep(600)\n")
    launched = wait_for("a second instance", node.other_instances_user_data)[0]
    told = parse_user_data(launched)
    assert (told.role, told.pool) == (NodeRole.WORKER, POOL)
    assert told.launch_id is not None
    assert launched.replace(told.launch_id, "by-hand") == own


def test_a_bundle_with_another_hash_is_not_run_the_console_says_so_and_the_machine_ends(new_stage: NewStage) -> None:
    stage = new_stage("other-bundle")
    text = stage.user_data(first_boot={"bundle_sha256": "0" * 64})
    assert "--on-active=1200s" in text
    stage.launch(text.replace("--on-active=1200s", "--on-active=20s"))
    machine = stage.machine
    wait_for("the first boot's end", lambda: "This is no node: its first boot failed" in machine.console)
    assert f"What {stage.bundle_url} gives is not what the pool's first_boot.bundle_sha256 says" in machine.console
    # What `status` and `bootstrap first` show of it is that sentence.
    cause = f"What {stage.bundle_url} gives is not what"
    assert read_console(machine.console).said.startswith(cause)
    assert not (machine.root / "opt/scaler-sidecar").exists()

    # A reboot, by a person or by EC2, makes no node of it and gives it no more than the same time again.
    machine.run("systemctl", "reboot", check=False)
    assert machine.wait_ended() == REBOOTED
    machine.start()
    assert machine.wait_ended(120) == 0
    assert "This is no node after 1200 s: powering off." in machine.console
