"""Packer's own word for the template with each file of variables."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .baking import PROJECT

pytestmark = [pytest.mark.real]

VARIABLES = sorted((PROJECT / "ami/vars").glob("*.json"))


def validate(*options: str) -> subprocess.CompletedProcess[str]:
    # No account is asked: whether an image exists in it is seen when one is baked.
    command = ["packer", "validate", "-var", "skip_aws_checks=true", *options, "packer.json"]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("variables", [None, *VARIABLES], ids=lambda path: path.stem if path else "defaults")
def test_packer_takes_the_template(variables: Path | None) -> None:
    done = validate(*([f"-var-file={variables}"] if variables else []))
    assert done.returncode == 0, done.stdout + done.stderr


def test_packer_would_say_what_is_wrong() -> None:
    done = validate("-var", "volume_gb=large")
    assert done.returncode != 0
    assert "volume_size" in done.stdout + done.stderr
