"""etcd and a standby under systemd, installed by the very commands of the pages: the units' hardening lets them work."""

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


#: A cluster whose ClearML and EC2 are away: enough to lead. Beside the member, so by its loopback address.
CONFIG = """
cluster: research
etcd:
  endpoints: [127.0.0.1:2379]
  tls: {ca: /etc/scaler-standby/ca.pem, cert: /etc/scaler-standby/client.pem, key: /etc/scaler-standby/client.key}
aws: {region: us-east-1, endpoint_url: "http://127.0.0.1:1"}
clearml: {api_host: "http://127.0.0.1:1"}
pools:
  - {name: cpu, queues: [default], instance_types: [c5.large], ami: ami-12345678, max_instances: 1}
"""
ENVIRONMENT = "".join(
    f"{name}=a\n"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY")
)


#: How the pages install the program, which the image has.
INSTALLED = ("python3 -m venv /opt/scaler-sidecar", "ln -s /opt/scaler-sidecar/bin/scaler-sidecar")


def commands(page: str, before: str, installs: tuple[str, ...]) -> list[str]:
    """The commands of the page's block after a line that begins so, without the installation of the programs."""
    text = (ROOT / "docs" / page).read_text()
    block = re.search(rf"^{before}.*?^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert block
    lines = block.group(1).strip().splitlines()
    for line, install in zip(lines, installs, strict=False):
        assert line.startswith(install)
    return lines[len(installs) :]


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
        for folder in ("etcd", "standby"):
            shutil.copytree(ROOT / "bootstrap" / folder, desk / "bootstrap" / folder)
        subprocess.run(
            [sys.executable, "-m", "scaler_plugin", "etcd", "certs", desk, "--member", "etcd-1=127.0.0.1"], check=True
        )
        made.start()
        made.wait_booted()
        for command in commands("etcd.md", "With systemd", ("apt-get install etcd-server etcd-client ",)):
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
    for command in commands("etcd.md", "Backups by timer", INSTALLED):
        at_the_desk(machine, command)
    kept = machine.run("sh", "-c", "stat -c '%U %a %n' /var/backups/scaler-etcd/*").splitlines()
    assert len(kept) == 1
    assert re.fullmatch(r"root 600 /var/backups/scaler-etcd/etcd-\w+\.db", kept[0])


def test_a_standby_beside_the_member_leads_as_a_user_of_its_own_without_rights(machine: Machine) -> None:
    wait_for("etcd answers", lambda: status(machine).get("ok"))
    for name, text in (("scaler.yaml", CONFIG), ("environment", ENVIRONMENT)):
        at_the_desk(machine, f"cat >{name} <<'END'\n{text}\nEND")
    *steps, start = commands("operations.md", "On Debian or Ubuntu", INSTALLED)
    for step in steps:
        at_the_desk(machine, step)
    at_the_desk(
        machine, "install -m 0640 -g scaler-standby clients/scaler/*.pem clients/scaler/*.key /etc/scaler-standby/"
    )
    at_the_desk(machine, "install -m 0600 environment /etc/scaler-standby/environment")
    at_the_desk(machine, "scaler-sidecar config push scaler.yaml")
    at_the_desk(machine, start)

    def leader() -> object:
        shown = machine.try_run("scaler-sidecar", "status", "--config", f"{DESK}/scaler.yaml", "--json")
        return (json.loads(shown.stdout).get("leader") or {}).get("node") if shown.stdout else None

    wait_for("the standby leads", lambda: str(leader() or "").startswith("standby-"))
    assert machine.property_of("scaler-standby", "ActiveState") == "active"
    pid = machine.property_of("scaler-standby", "MainPID")
    process = dict(line.split(":", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines())
    assert process["Uid"].split()[0] == machine.run("id", "-u", "scaler-standby").strip()
    assert (process["CapEff"].strip(), process["NoNewPrivs"].strip(), process["Seccomp"].strip()) == (
        "0" * 16,
        "1",
        "2",
    )
