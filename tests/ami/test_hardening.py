"""How much each unit could do if it were taken over: a ceiling by systemd's own measure, and what it must still be able to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .baking import PROJECT
from .stage import Stage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

UNITS = (PROJECT / "ami/units", PROJECT / "bootstrap/etcd")

#: Exposure from 0 to 10 as `systemd-analyze security` of systemd 252 sees it, and a little air for other versions' weights.
CEILINGS = {
    "clearml-agent@0.service": 5.4,  # tasks run in it: GPUs, the network and namespaces are theirs
    "etcd.service": 2.0,
    "etcd-backup.service": 2.6,
    "scaler-deadman.service": 3.0,
    "scaler-firewall.service": 2.7,
    "scaler-sidecar.service": 3.8,
    "scaler-bootstrap.service": 10.0,  # runs the pool's init script, which is root's on purpose
}


@pytest.fixture(scope="module")
def tree_of_units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("units")
    folder = tree / "etc/systemd/system"
    folder.mkdir(parents=True)
    for source in UNITS:
        for unit in source.glob("*.service"):
            shutil.copy(unit, folder)
    return tree


def test_every_unit_has_a_ceiling(tree_of_units: Path) -> None:
    units = {path.name.replace("@.", "@0.") for path in (tree_of_units / "etc/systemd/system").iterdir()}
    assert units == set(CEILINGS)


@pytest.mark.parametrize(("unit", "ceiling"), CEILINGS.items())
def test_no_unit_may_do_more_than_it_needs(tree_of_units: Path, unit: str, ceiling: float) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--root={tree_of_units}", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, f"systemd-analyze of systemd 250 or newer is needed: {done.stdout[-300:]}{done.stderr[-300:]}"
    assert float(found[1]) <= ceiling, done.stdout


@pytest.fixture(scope="module")
def node(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(image, tmp_path_factory.mktemp("node"), f"hard-{os.getpid()}")
    try:
        stage.push_config(idle_timeout="never")
        stage.launch()
        stage.wait_polling()
        yield stage
    finally:
        stage.close()


def run_in_place_of(stage: Stage, unit: str, command: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Another command under the unit's rules; what systemd says of its end."""
    lines = "\n".join(["[Service]", "ExecStart=", f"ExecStart={command}", *more, ""])
    drop_in = f"/run/systemd/system/{unit}.d/in-its-place.conf"
    stage.machine.write(drop_in, lines)
    stage.machine.run("systemctl", "daemon-reload")
    try:
        return stage.machine.try_run("systemctl", "start", unit)
    finally:
        if stage.machine.running:
            stage.machine.try_run("rm", drop_in)
            stage.machine.try_run("systemctl", "daemon-reload")


def test_the_journal_keeps_to_its_limit(node: Stage) -> None:
    said = node.machine.run("journalctl", "--no-pager", "-u", "systemd-journald.service")
    assert re.search(r"System Journal \(/var/log/journal/\S+\) is \S+, max 300\.0M", said), said


def test_the_dead_man_sees_processes_of_the_agents_user(node: Stage) -> None:
    slot = "/run/scaler-sidecar/slots/0"
    look = f"/bin/grep -qzxF SCALER_SLOT_DIR={slot} /proc/$PID/environ"
    sleeper = f"SCALER_SLOT_DIR={slot} sleep 300 >/dev/null 2>&1 & echo $!"
    pid = node.machine.run("sh", "-c", sleeper, user="clearml").strip()
    done = run_in_place_of(node, "scaler-deadman.service", look.replace("$PID", pid))
    node.machine.run("kill", pid)
    assert done.returncode == 0, done.stderr


def test_the_sidecar_may_read_the_kernels_log(node: Stage) -> None:
    node.machine.try_run("mknod", "-m", "600", "/dev/kmsg", "c", "1", "11")  # a container has none of its own accord
    node.machine.run("cp", "/etc/systemd/system/scaler-sidecar.service", "/etc/systemd/system/like-the-sidecar.service")
    read = "/bin/dd if=/dev/kmsg of=/dev/null bs=8192 count=1 iflag=nonblock"
    done = run_in_place_of(node, "like-the-sidecar.service", read, "Type=oneshot", "Restart=no")
    assert done.returncode == 0, node.machine.run(
        "journalctl", "--no-pager", "-n", "30", "-u", "like-the-sidecar.service"
    )


def test_the_dead_man_may_ask_docker(node: Stage) -> None:
    ask = "/usr/bin/docker ps --quiet --filter label=clearml-worker-id"
    done = run_in_place_of(node, "scaler-deadman.service", ask)
    assert done.returncode == 0, node.machine.run(
        "journalctl", "--no-pager", "-n", "30", "-u", "scaler-deadman.service"
    )


def test_the_dead_man_may_power_off_by_the_kernels_own_call(node: Stage) -> None:
    run_in_place_of(node, "scaler-deadman.service", "/usr/bin/systemctl poweroff --force --force")
    assert node.machine.wait_ended(30) == 0, node.machine.console
