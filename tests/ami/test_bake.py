"""What Packer asked of EC2, and what it left on the machine's disk."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from . import task_image
from .baking import PROJECT, SOURCE_AMI, SOURCE_NAME, Bake

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]


def chroot(bake: Bake, *command: str) -> str:
    done = subprocess.run(["chroot", str(bake.root), *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def mode_and_owner(bake: Bake, path: str) -> tuple[int, int, int]:
    status = (bake.root / path.lstrip("/")).stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def test_the_image_is_registered_and_says_what_it_is_made_of(baked: Bake) -> None:
    version = package_version()
    tags = {tag["Key"]: tag["Value"] for tag in baked.image["Tags"]}
    assert re.fullmatch(rf"scaler-sidecar-{re.escape(version)}-debian-12-cpu-\d+", baked.image["Name"])
    assert tags == {
        "Name": f"scaler-sidecar {version} debian-12 cpu",
        "scaler-sidecar:version": version,
        "scaler-sidecar:clearml-agent": agent_version(),
        "scaler-sidecar:os": "debian-12",
        "scaler-sidecar:variant": "cpu",
        "scaler-sidecar:source-ami": SOURCE_AMI,
        "scaler-sidecar:source-ami-name": SOURCE_NAME,
    }
    assert baked.snapshot_tags["scaler-sidecar:version"] == version


def test_the_root_volume_is_encrypted_from_the_launch_on_and_goes_with_its_instance(baked: Bake) -> None:
    launch = baked.call("RunInstances")
    assert launch["ImageId"] == SOURCE_AMI
    assert launch["BlockDeviceMapping.1.DeviceName"] == "/dev/xvda"
    assert launch["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    assert launch["BlockDeviceMapping.1.Ebs.VolumeType"] == "gp3"
    assert launch["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    assert launch["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_nothing_of_the_bake_stays_in_the_account_but_the_image(baked: Bake) -> None:
    assert {instance["state"] for instance in baked.instances} <= {"terminated", "shutting-down"}
    assert baked.security_groups == ["default"]
    opened = baked.call("AuthorizeSecurityGroupIngress")
    assert "10.0.0.0/8" in opened.values()
    assert "0.0.0.0/0" not in opened.values()


def test_the_program_is_there_in_the_versions_that_the_tags_name(baked: Bake) -> None:
    image = dict(
        line.split("=", 1)
        for line in (baked.root / "etc/scaler-sidecar/image.env").read_text().splitlines()
        if "=" in line
    )
    assert image == {
        "SIDECAR_VERSION": package_version(),
        "AGENT_VERSION": agent_version(),
        "VARIANT": "cpu",
        "SOURCE_AMI": SOURCE_AMI,
        "OS": "debian-12",
    }
    assert "usage" in chroot(baked, "/usr/local/bin/scaler-sidecar", "--help").lower()
    for program in ("docker", "dockerd", "git", "python3", "nft", "flock"):
        assert chroot(baked, "which", program).strip()


def test_every_package_of_the_environment_is_one_of_the_lock(baked: Bake) -> None:
    def pins(text: str) -> set[str]:
        return {m[1].lower().replace("_", "-") + "==" + m[2] for m in re.finditer(r"(?m)^([\w.-]+)==([\w.!+]+)", text)}

    locked = pins((PROJECT / "ami/requirements.lock").read_text()) | pins(
        (PROJECT / "ami/build-requirements.lock").read_text()
    )
    installed = pins((baked.root / "opt/scaler-sidecar/packages.txt").read_text())
    assert len(installed) > 30
    assert installed <= locked


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/opt/scaler-sidecar/venv/bin/python", 0o755),
        ("/usr/lib/scaler-sidecar/deadman", 0o755),
        ("/usr/lib/scaler-sidecar/start-node", 0o755),
        ("/etc/scaler-sidecar/nftables.conf", 0o644),
        ("/etc/scaler-sidecar/image.env", 0o644),
        ("/etc/systemd/system/scaler-sidecar.service", 0o644),
        ("/etc/systemd/system/scaler-bootstrap.service", 0o644),
        ("/etc/systemd/system/clearml-agent@.service", 0o644),
        ("/etc/tmpfiles.d/scaler-sidecar.conf", 0o644),
        ("/etc/systemd/journald.conf.d/scaler-sidecar.conf", 0o644),
    ],
)
def test_what_runs_is_roots_and_nobody_else_can_change_it(baked: Bake, path: str, mode: int) -> None:
    found, uid, gid = mode_and_owner(baked, path)
    assert (found, uid, gid) == (mode, 0, 0)


def test_nothing_under_opt_or_etc_is_writable_for_others(baked: Bake) -> None:
    writable = chroot(
        baked, "find", "/opt", "/etc", "/usr/lib/scaler-sidecar", "-xdev", "!", "-type", "l", "-perm", "/022"
    )
    assert writable == ""


def test_the_agents_user_has_no_login_no_rights_and_a_group_of_its_own(baked: Bake) -> None:
    name, _, _, _, _, home, shell = chroot(baked, "getent", "passwd", "clearml").strip().split(":")
    assert (name, home, shell) == ("clearml", "/var/lib/clearml", "/usr/sbin/nologin")
    assert chroot(baked, "id", "-Gn", "clearml").split() == ["clearml"]
    assert chroot(baked, "getent", "group", "clearml").strip().endswith(":")
    assert mode_and_owner(baked, "/var/lib/clearml")[0] == 0o750


def test_units_are_enabled_that_start_a_node_and_those_that_would_change_it_are_masked(baked: Bake) -> None:
    def enabled(unit: str) -> str:
        done = subprocess.run(
            ["chroot", str(baked.root), "systemctl", "is-enabled", unit], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    for unit in ("scaler-firewall.service", "scaler-bootstrap.service", "scaler-deadman.timer", "docker.socket"):
        assert enabled(unit) == "enabled", unit
    assert enabled("docker.service") == "disabled"  # started by the first who asks
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"):
        assert enabled(unit) == "masked", unit


def test_the_source_images_own_upgrades_are_stopped_and_what_they_are_at_is_waited_for(baked: Bake) -> None:
    # They held all of apt's locks when the bake began.
    assert baked.own_upgrade_finished
    assert "DPkg::Lock::Timeout" in (baked.root / "etc/apt/apt.conf.d/90scaler-sidecar").read_text()


def test_systemd_finds_nothing_wrong_with_the_units(baked: Bake) -> None:
    units = sorted(path.name for path in (PROJECT / "ami/units").iterdir())
    done = subprocess.run(
        ["chroot", str(baked.root), "systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
        + [unit.replace("@.", "@0.") for unit in units],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_firewall_rules_can_be_read_by_the_images_own_nft(baked: Bake) -> None:
    chroot(baked, "nft", "--check", "--file", "/etc/scaler-sidecar/nftables.conf")


def test_docker_keeps_containers_over_its_own_restart_and_logs_bounded(baked: Bake) -> None:
    daemon = json.loads((baked.root / "etc/docker/daemon.json").read_text())
    assert daemon["live-restore"] is True
    assert daemon["log-opts"]["max-size"]


def test_docker_images_that_were_asked_for_are_pulled_ahead(baked: Bake) -> None:
    assert task_image.pulled(baked.root).startswith("127.0.0.1:")
    layers = baked.root / "var/lib/docker/overlay2"
    assert list(layers.glob(f"*/diff{task_image.PYTHON}"))


def test_no_identity_history_or_key_of_the_baking_machine_is_left(baked: Bake) -> None:
    root = baked.root
    assert (root / "etc/machine-id").read_text() in ("", "uninitialized\n")
    assert not (root / "var/lib/dbus/machine-id").exists() or (root / "var/lib/dbus/machine-id").is_symlink()
    gone = ["etc/ssh/ssh_host_*", "etc/docker/key.json", "var/lib/docker/engine-id"]
    for home in ("root", "home/*"):
        gone += [f"{home}/.ssh/authorized_keys", f"{home}/.*_history"]
    assert [path for pattern in gone for path in root.glob(pattern)] == []
    assert list((root / "var/lib/apt/lists").iterdir()) == []
    assert list((root / "var/cache/apt/archives").glob("*.deb")) == []
    assert list((root / "tmp").iterdir()) == []
    assert not (root / "usr/sbin/policy-rc.d").exists()


def test_the_way_to_this_hosts_package_index_is_not_in_the_image(baked: Bake) -> None:
    assert not (baked.root / "etc/pip.conf").exists()
    assert not list(baked.root.glob("root/.config/pip*")) + list(baked.root.glob("root/.pip*"))


def package_version() -> str:
    config = ConfigParser()
    config.read(PROJECT / "setup.cfg")
    return config["metadata"]["version"]


def agent_version() -> str:
    found = re.search(r"(?m)^clearml-agent==(\S+)", (PROJECT / "ami/requirements.lock").read_text())
    assert found
    return found[1]


def test_packer_left_its_manifest(baked: Bake) -> None:
    manifest = json.loads((Path(PROJECT) / "build/ami-manifest.json").read_text())
    assert manifest["builds"][-1]["artifact_id"].endswith(baked.image["ImageId"])
