"""Packer's own word for the template with each file of variables."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from .baking import PROJECT

pytestmark = [pytest.mark.real]

VARIABLES = sorted((PROJECT / "ami/vars").glob("*.json"))


PAGES = [PROJECT / "README.md", PROJECT / "ami/README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
#: What the pages tell people to type, in code blocks and inside sentences, without its comment.
COMMANDS = {
    found.strip() for page in PAGES for found in re.findall(r"packer build ([^`#\n]*packer\.json)", page.read_text())
}


def validate(*options: str) -> subprocess.CompletedProcess[str]:
    # No account is asked: whether an image exists in it is seen when one is baked.
    command = ["packer", "validate", "-var", "skip_aws_checks=true", *options, "packer.json"]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("variables", [None, *VARIABLES], ids=lambda path: path.stem if path else "defaults")
def test_packer_takes_the_template(variables: Path | None) -> None:
    done = validate(*([f"-var-file={variables}"] if variables else []))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_packer_takes_each_command_that_the_pages_name(command: str) -> None:
    done = validate(*(word for word in shlex.split(command) if word != "packer.json"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"ssh_interface": "private_ip", "associate_public_ip_address": "false", "subnet_id": "subnet-1"},
        {"ssh_interface": "session_manager", "iam_instance_profile": "bake"},
        {"ssh_keypair_name": "mine", "ssh_private_key_file": "KEY"},
        {"access_key": "test", "secret_key": "test", "session_token": "test"},
        {"nvidia_branch": "580-server-open", "gpu_driver": "install", "variant": "gpu"},
    ],
    ids="+".join,
)
def test_packer_takes_the_variables_for_an_accounts_own_ways(variables: dict[str, str], tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    given = (f"{name}={str(key) if value == 'KEY' else value}" for name, value in variables.items())
    done = validate(*(word for one in given for word in ("-var", one)))
    assert done.returncode == 0, done.stdout + done.stderr


def test_packer_would_say_what_is_wrong() -> None:
    done = validate("-var", "volume_gb=large")
    assert done.returncode != 0
    assert "volume_size" in done.stdout + done.stderr
