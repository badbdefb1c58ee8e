"""etcd under systemd, installed on a machine by the very commands of docs/etcd.md: the units' hardening lets it work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler_plugin.localcloud.etcd import etcd_binary

from .machine import Machine, NetworkNamespace, Overlay, wait_for

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
#: The folder from which the commands are given: what was copied to the machine.
DESK = "/root/desk"
#: No instance of a cluster: what the image starts by itself stays off.
OFF = ("scaler-bootstrap.service", "scaler-sidecar.service", "scaler-deadman.timer", "scaler-firewall.service")


def commands_under_systemd() -> list[str]:
    """The page's commands, without the package's installation."""
    page = (ROOT / "docs" / "etcd.md").read_text()
    block = re.search(r"^With systemd.*?^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert block
    install, *rest = block.group(1).strip().splitlines()
    assert install.startswith("apt-get install etcd-server etcd-client ")
    return rest


@pytest.fixture(scope="module")
def machine(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("etcd-machine")
    network = NetworkNamespace(f"etcd-{os.getpid()}")
    overlay = Overlay(image, folder / "disk")
    made = Machine(overlay.root, folder / "console.log", network)
    try:
        # What the packages would bring: the programs and the user.
        for program in ("etcd", "etcdctl"):
            shutil.copy2(etcd_binary(program), overlay.root / "usr/bin" / program)
        overlay.write("/usr/lib/sysusers.d/etcd.conf", 'u etcd - "etcd" /var/lib/etcd\n')
        for unit in OFF:
            (overlay.root / "etc/systemd/system" / unit).unlink(missing_ok=True)
            (overlay.root / "etc/systemd/system" / unit).symlink_to("/dev/null")
        desk = overlay.root / DESK.lstrip("/")
        shutil.copytree(ROOT / "bootstrap" / "etcd", desk / "bootstrap" / "etcd")
        subprocess.run(
            [sys.executable, "-m", "scaler_plugin", "etcd", "certs", desk, "--member", "etcd-1=127.0.0.1"], check=True
        )
        made.start()
        made.wait_booted()
        for command in commands_under_systemd():
            at_the_desk(made, command)
        yield made
    finally:
        made.destroy()
        overlay.remove()
        network.remove()


def at_the_desk(machine: Machine, command: str) -> str:
    return machine.run("sh", "-ec", f"cd {DESK}; {command}")


def status(machine: Machine) -> dict[str, object]:
    said = machine.try_run(
        "scaler-sidecar", "etcd", "status", "--etcd", "127.0.0.1:2379", "--identity", f"{DESK}/clients/scaler", "--json"
    )
    answer: dict[str, object] = json.loads(said.stdout) if said.stdout.startswith("{") else {}
    return answer


def test_the_member_starts_as_its_own_user_and_a_client_with_a_certificate_may_use_it(machine: Machine) -> None:
    wait_for("etcd is ready", lambda: machine.property_of("scaler-etcd", "ActiveState") == "active")
    said = at_the_desk(machine, "ENDPOINT=https://127.0.0.1:2379 CERTS=. bootstrap/etcd/auth.sh")
    assert "scaler may use /scaler-sidecar/ and nothing else" in said
    assert status(machine)["ok"]
    pid = machine.property_of("scaler-etcd", "MainPID")
    process = dict(line.split(":", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines())
    assert process["Uid"].split()[0] == machine.run("id", "-u", "etcd").strip()
    assert (process["CapEff"].strip(), process["NoNewPrivs"].strip(), process["Seccomp"].strip()) == (
        "0" * 16,
        "1",
        "2",
    )
    assert machine.run("stat", "-c", "%U %a", "/var/lib/etcd").split() == ["etcd", "700"]
    assert set(machine.run("sh", "-c", "stat -c '%U %a' /etc/etcd/*.key").splitlines()) == {"etcd 600"}


def test_a_member_that_is_killed_comes_back_with_its_data(machine: Machine) -> None:
    wait_for("etcd is ready", lambda: machine.property_of("scaler-etcd", "ActiveState") == "active")
    before = machine.property_of("scaler-etcd", "MainPID")
    machine.run("kill", "-9", before)
    wait_for("another process", lambda: machine.property_of("scaler-etcd", "MainPID") not in (before, "0"))
    wait_for("it answers, and knows its users", lambda: status(machine).get("ok"))


def test_the_backups_unit_makes_a_backup_that_only_root_can_read(machine: Machine) -> None:
    wait_for("etcd answers", lambda: status(machine).get("ok"))
    at_the_desk(machine, "cp -r clients/root /etc/scaler-backup; cp bootstrap/etcd/etcd-backup.* /etc/systemd/system/")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "--now", "etcd-backup.timer")
    machine.run("systemctl", "start", "etcd-backup.service")
    kept = machine.run("sh", "-c", "stat -c '%U %a %n' /var/backups/scaler-etcd/*").splitlines()
    assert len(kept) == 1
    assert re.fullmatch(r"root 600 /var/backups/scaler-etcd/etcd-\w+\.db", kept[0])
