"""Bakes the image for real and boots it. Needs root and some programs, so it runs only as ``make ami-test``.

Where something is missing, CI fails; elsewhere the tests are skipped with the list of what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .baking import Bake, bake

#: Program, and the Debian package that has it.
PROGRAMS = {
    "packer": "packer",
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
}

if os.environ.get("SCALER_AMI_TESTS") != "1":
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str:
    return (
        "ami: run by `make ami-test` as root" if os.environ.get("SCALER_AMI_TESTS") != "1" else "ami: bakes and boots"
    )


def missing() -> list[str]:
    absent = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    problems = [f"apt-get install {' '.join(absent)}"] if absent else []
    if os.geteuid() != 0:
        problems.append("run as root")
    return problems


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    if problems := missing():
        sentence = f"The image's tests need more than this machine has: {'; '.join(problems)}."
        if os.environ.get("CI"):
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """What is kept of a run: logs, and how long the boot took."""
    folder = Path(__file__).parents[2] / "build" / "ami-test"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def baked(tmp_path_factory: pytest.TempPathFactory, artifacts: Path, tools: None) -> Iterator[Bake]:
    folder = tmp_path_factory.mktemp("bake")
    try:
        yield bake(folder)
    finally:
        for log in ("packer.log", "bake-console.log"):
            if (folder / log).exists():
                shutil.copy(folder / log, artifacts)
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder / "disk")], check=False)


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Path:
    """The baked machine's disk. ``SCALER_AMI_BAKED`` names a folder that keeps it for the next run, which then does not bake."""
    kept = os.environ.get("SCALER_AMI_BAKED")
    if kept and Path(kept).exists():
        return Path(kept)
    root: Path = request.getfixturevalue("baked").root
    if kept:
        subprocess.run(["cp", "--archive", "--reflink=auto", str(root), kept], check=True)
    return root
