"""Which image a bake begins from, as Packer asks the EC2 double for it. Nothing is baked: Packer is stopped once it has launched.

The double overlooks filters beside an image's id, EC2 doesn't: so what was asked counts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from scaler_plugin.localcloud.ec2 import Ec2DoubleProcess

from .baking import DEBIAN_ACCOUNT, OLDER_SOURCE_AMI, PROJECT, REGION, SOURCE_AMI, read, source_images
from .machine import wait_for

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ec2_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ec2")
    double = Ec2DoubleProcess(folder / "double", boot_after_s=0.2, end_after_s=0.2)
    with patch.dict(os.environ, MOTO_EC2_LOAD_DEFAULT_AMIS="true", MOTO_AMIS_PATH=str(source_images(folder))):
        double.start()
    yield double.url
    double.stop()


def calls(ec2_url: str, action: str) -> list[dict[str, str]]:
    return [call["parameters"] for call in read(f"{ec2_url}/_journal") if call["action"] == action]


def launched_from(ec2_url: str, folder: Path, *options: str) -> str:
    """The image that ``packer build`` launches its instance from."""
    before = len(calls(ec2_url, "RunInstances"))
    variables = {"region": REGION, "access_key": "test", "secret_key": "test", "skip_aws_checks": "true"}
    # Nobody listens there.
    variables |= {"ec2_endpoint": ec2_url, "ssh_host": "127.0.0.1", "ssh_port": "1"}
    (folder / "variables.json").write_text(json.dumps(variables))
    log = folder / "packer.log"
    with log.open("w") as output:
        packer = subprocess.Popen(
            ["packer", "build", "-color=false", f"-var-file={folder / 'variables.json'}", *options, "packer.json"],
            cwd=PROJECT,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "CHECKPOINT_DISABLE": "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,  # its parts are processes of their own, and each wants the signal
        )
    try:
        wait_for(
            "packer has launched, or ended",
            lambda: packer.poll() is not None or len(calls(ec2_url, "RunInstances")) > before,
        )
    finally:
        if packer.poll() is None:
            os.killpg(packer.pid, signal.SIGINT)  # it terminates what it launched
        try:
            packer.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(packer.pid, signal.SIGKILL)
            raise
    launches = calls(ec2_url, "RunInstances")
    assert len(launches) == before + 1, log.read_text()
    return launches[-1]["ImageId"]


def asked_for(ec2_url: str) -> dict[str, str]:
    """The filters of the last search for images, and the owner."""
    asked = calls(ec2_url, "DescribeImages")[-1]
    filters = {asked[f"Filter.{n}.Name"]: asked[f"Filter.{n}.Value.1"] for n in range(1, 5)}
    return filters | {name: value for name, value in asked.items() if name.startswith("Owner")}


def test_by_name_and_owner_it_is_the_newest(ec2_url: str, tmp_path: Path) -> None:
    assert launched_from(ec2_url, tmp_path, "-var-file=ami/vars/debian-12.json") == SOURCE_AMI
    asked = asked_for(ec2_url)
    assert (asked["name"], asked["Owner.1"]) == ("debian-12-amd64-*", DEBIAN_ACCOUNT)


def test_by_its_id_it_is_that_image_whatever_its_name_and_whoever_its_owner(ec2_url: str, tmp_path: Path) -> None:
    # The template's own name and owner are Ubuntu's.
    assert launched_from(ec2_url, tmp_path, "-var", f"source_ami={OLDER_SOURCE_AMI}") == OLDER_SOURCE_AMI
    assert asked_for(ec2_url) == {
        "name": "*",
        "architecture": "x86_64",
        "root-device-type": "ebs",
        "virtualization-type": "hvm",
    }


def test_an_image_of_the_named_architecture_alone_is_looked_for(ec2_url: str, tmp_path: Path) -> None:
    launched_from(ec2_url, tmp_path, "-var", f"source_ami={SOURCE_AMI}", "-var", "architecture=arm64")
    assert asked_for(ec2_url)["architecture"] == "arm64"
