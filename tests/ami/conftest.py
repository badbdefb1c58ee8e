"""Bakes the image for real and boots it. Needs root and some programs, so it runs only as ``make ami-test``.

Where something is missing, CI fails; elsewhere the tests are skipped with the list of what to install.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

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

KEPT = Path(__file__).parents[2] / "build" / "ami-test"
#: What was measured stands in the first line of these.
MEASURED = ("systemd-analyze.txt", "first-boot.txt")

#: What takes longest begins first; and tests of these files share no machine, so each may run beside any other.
FIRST = ("test_bake", "test_cluster", "test_failed_starts")

BAKE_FOLDER = pytest.StashKey[Path]()

if os.environ.get("SCALER_AMI_TESTS") != "1":
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str:
    return (
        "ami: run by `make ami-test` as root" if os.environ.get("SCALER_AMI_TESTS") != "1" else "ami: bakes and boots"
    )


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if item.path.parent == Path(__file__).parent]
    for item in own:
        if item.path.stem not in FIRST:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    own.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))
    items[:] = [*(item for item in items if item not in own), *own]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in MEASURED:
        if (KEPT / report).exists():
            terminalreporter.write_line((KEPT / report).read_text().splitlines()[0])


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
    KEPT.mkdir(parents=True, exist_ok=True)
    return KEPT


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        for report in MEASURED:
            (KEPT / report).unlink(missing_ok=True)
        config.stash[BAKE_FOLDER] = Path(tempfile.mkdtemp(prefix="scaler-bake-"))


def pytest_configure_node(node: Any) -> None:
    """The processes among which pytest-xdist divides the tests share one bake."""
    node.workerinput["bake_folder"] = str(node.config.stash[BAKE_FOLDER])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        subprocess.run(["rm", "-rf", "--one-file-system", str(config.stash[BAKE_FOLDER])], check=False)


@pytest.fixture(scope="session")
def baked(request: pytest.FixtureRequest, artifacts: Path, tools: None) -> Bake:
    """The first process that wants it bakes, the others wait for it."""
    given = getattr(request.config, "workerinput", {}).get("bake_folder")
    folder = Path(given) if given else request.config.stash[BAKE_FOLDER]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = folder / "bake.pickle"
        if made.exists():
            found: Bake = pickle.loads(made.read_bytes())
            return found
        try:
            (folder / "bake").mkdir()
        except FileExistsError:
            pytest.fail("The bake has failed in another process; packer.log in build/ami-test says why.", pytrace=False)
        try:
            result = bake(folder / "bake")
        finally:
            for log in ("packer.log", "bake-console.log"):
                if (folder / "bake" / log).exists():
                    shutil.copy(folder / "bake" / log, artifacts)
        made.write_bytes(pickle.dumps(result))
        return result


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
