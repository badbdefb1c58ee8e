"""One real bake: Packer, the EC2 double, and an SSH server in a Debian machine where the double's instance would be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3

from scaler_plugin.localcloud.ec2 import Ec2DoubleProcess
from scaler_plugin.localcloud.etcd import free_port

from . import debian, package_index, task_image
from .machine import Machine, wait_for

PROJECT = Path(__file__).parents[2]
REGION = "us-east-1"
DEBIAN_ACCOUNT = "136693071363"
SOURCE_AMI = "ami-0deb1200000000006"
SOURCE_NAME = "debian-12-amd64-20260601-1"
OLDER_SOURCE_AMI = "ami-0deb1200000000001"
#: The machine that bakes shares the host's network and may not change it; pulling needs no network for containers.
DOCKER_WITHOUT_NETWORK = "[Service]\nEnvironment='DOCKER_OPTS=--bridge=none --iptables=false --ip-forward=false'\n"
#: The source image's own upgrades, which have just begun: the one would hold its lock for ever, the other is in the middle of a
#: package, which it finishes when told to stop.
HOLD = (
    "use Fcntl; for (@ARGV) { open(my $f, '>>', $_) or die; my $lock = pack('s s x28', F_WRLCK, 0);"
    " fcntl($f, F_SETLK, $lock) or die; push @held, $f }"
)
OWN_UPGRADES = {
    "apt-daily": """[Service]
Type=simple
ExecStartPre=
ExecStart=
ExecStart=perl /run/own-update /var/lib/apt/lists/lock
""",
    "apt-daily-upgrade": """[Service]
Type=simple
KillMode=process
ExecStartPre=
ExecStart=
ExecStart=sh -c 'perl /run/own-upgrade /var/lib/dpkg/lock-frontend /var/cache/apt/archives/lock & wait'
""",
}
OWN_UPDATE = f"{HOLD} sleep"
OWN_UPGRADE = (
    f"{HOLD} my $told = getppid; sleep 1 while getppid == $told; sleep 8; open(F, '>', '/run/own-upgrade-finished')"
)
#: On a shared machine with two cores: two minutes of apt and pip, and room.
BAKE_TIMEOUT_S = 1200


@dataclass(frozen=True)
class Bake:
    """``root`` is the machine's disk as it was when the image was made of it. ``calls`` is the double's journal."""

    root: Path
    image: dict[str, Any]
    snapshot_tags: dict[str, str]
    calls: list[dict[str, Any]]
    instances: list[dict[str, Any]]
    security_groups: list[str]
    packer_output: str
    own_upgrade_finished: bool

    def call(self, action: str) -> dict[str, str]:
        (found,) = (call["parameters"] for call in self.calls if call["action"] == action)
        return dict(found)


def bake(folder: Path) -> Bake:
    """Run the whole template against the double. ``folder`` keeps the machine's disk."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", str(key)], check=True)
    port = free_port()
    root = folder / "disk"
    debian.copy_with_admin(root, key.with_suffix(".pub").read_text(), port)
    machine = Machine(root, folder / "bake-console.log", options=package_index.nspawn_options(folder))
    double = Ec2DoubleProcess(folder / "ec2", boot_after_s=0.5, end_after_s=0.5)
    with patch.dict(os.environ, MOTO_EC2_LOAD_DEFAULT_AMIS="true", MOTO_AMIS_PATH=str(source_images(folder))):
        double.start()
    try:
        ec2 = boto3.client(
            "ec2", region_name=REGION, endpoint_url=double.url, aws_access_key_id="test", aws_secret_access_key="test"
        )
        machine.start()
        machine.wait_booted()
        machine.write("/run/systemd/system/docker.service.d/test.conf", DOCKER_WITHOUT_NETWORK)
        _begin_own_upgrades(machine)
        with task_image.Registry() as registry:
            output = _packer(folder, double.url, key, port, registry.image)
        finished = machine.try_run("test", "-e", "/run/own-upgrade-finished").returncode == 0
        machine.power_off()  # what EC2's StopInstances would have done to it
        image = next(i for i in ec2.describe_images()["Images"] if i["Name"].startswith("scaler-sidecar-0"))
        snapshot = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        tags = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [snapshot]}])["Tags"]
        result = Bake(
            root=root,
            image=image,
            snapshot_tags={tag["Key"]: tag["Value"] for tag in tags},
            calls=read(f"{double.url}/_journal"),
            instances=read(f"{double.url}/_instances"),
            security_groups=[group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]],
            packer_output=output,
            own_upgrade_finished=finished,
        )
    finally:
        machine.destroy()
        double.stop()
    package_index.leave_no_trace(root)
    (root / "etc/ssh/sshd_config.d/test.conf").unlink()
    return result


def _begin_own_upgrades(machine: Machine) -> None:
    machine.write("/run/own-update", OWN_UPDATE)
    machine.write("/run/own-upgrade", OWN_UPGRADE)
    for name, settings in OWN_UPGRADES.items():
        machine.write(f"/run/systemd/system/{name}.service.d/test.conf", settings)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "--no-block", *(f"{name}.service" for name in OWN_UPGRADES))
    wait_for("locks on apt's lists and dpkg's", lambda: machine.run("lslocks", "-no", "COMMAND").count("perl") == 3)


def source_images(folder: Path) -> Path:
    """What Debian's account publishes: the file from which the double's EC2 knows images besides its own."""
    newest = {
        "ami_id": SOURCE_AMI,
        "name": SOURCE_NAME,
        "owner_id": DEBIAN_ACCOUNT,
        "creation_date": "2026-06-01T00:00:00.000Z",
        "state": "available",
        "public": True,
        "architecture": "x86_64",
        "description": "Debian 12",
        "image_type": "machine",
        "image_location": f"{DEBIAN_ACCOUNT}/{SOURCE_NAME}",
        "hypervisor": "xen",
        "virtualization_type": "hvm",
        "root_device_name": "/dev/xvda",
        "root_device_type": "ebs",
        "sriov": "simple",
        "platform": None,
    }
    older = {
        **newest,
        "ami_id": OLDER_SOURCE_AMI,
        "name": "debian-12-amd64-20260101-1",
        "creation_date": "2026-01-01T00:00:00.000Z",
    }
    path = folder / "images.json"
    path.write_text(json.dumps([older, newest]))
    return path


def _packer(folder: Path, ec2_url: str, key: Path, port: int, docker_image: str) -> str:
    variables = {
        "region": REGION,
        "access_key": "test",
        "secret_key": "test",
        "ec2_endpoint": ec2_url,
        "skip_aws_checks": "true",
        "ssh_host": "127.0.0.1",
        "ssh_port": str(port),
        "ssh_private_key_file": str(key),
        "ssh_source_cidr": "10.0.0.0/8",
        "docker_images": docker_image,
    }
    (folder / "variables.json").write_text(json.dumps(variables))
    files = ("ami/vars/debian-12.json", folder / "variables.json")
    packer = shutil.which("packer")
    assert packer is not None
    done = subprocess.run(
        [packer, "build", "-color=false", *(f"-var-file={file}" for file in files), "packer.json"],
        cwd=PROJECT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHON": sys.executable,
            "CHECKPOINT_DISABLE": "1",
            # For building the wheel, which happens on this side.
            **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_CERT"))},
        },
        capture_output=True,
        text=True,
        timeout=BAKE_TIMEOUT_S,
        check=False,
    )
    (folder / "packer.log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, f"packer build failed:\n{done.stdout[-6000:]}{done.stderr}"
    return done.stdout


def read(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)
