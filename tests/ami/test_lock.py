"""The image's lock on the Pythons of all systems that are supported, of which the bake of these tests runs only one.

What pip would install there is asked of the package index: every package must have a wheel with a hash of the lock, and the
packages together must be complete. The environment of the other Python is only told to pip, not run.
"""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from .baking import PROJECT

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

#: Python, glibc (its minor version) and processor of each system.
SYSTEMS = {
    "ubuntu-22.04": ("3.10", 35, "x86_64"),
    "debian-12": ("3.11", 36, "x86_64"),
    "ubuntu-24.04": ("3.12", 39, "x86_64"),
    "ubuntu-24.04-arm64": ("3.12", 39, "aarch64"),
}

#: Published as source only, and built where it is installed.
NO_WHEELS = {"etcd3"}


def environment(python: str, processor: str) -> dict[str, str]:
    """What markers are evaluated with."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "implementation_name": "cpython",
        "implementation_version": f"{python}.5",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": processor,
        "extra": "",
    }


def entries(lock: Path) -> Iterator[tuple[Requirement, str]]:
    """Each package of a lock, and its entry with its hashes but without its marker."""
    for found in re.finditer(r"(?m)^([\w.-]+==[^\\\n]+?) *\\\n((?: +--hash.*\n?)+)", lock.read_text()):
        requirement = Requirement(found[1])
        yield requirement, f"{requirement.name}{requirement.specifier} \\\n{found[2]}"


def told_to_install(lock: Path, target: dict[str, str]) -> dict[str, str]:
    """Name and entry of what the lock holds for an environment. pip itself would evaluate markers for the Python that runs it."""
    found: dict[str, str] = {}
    for requirement, text in entries(lock):
        if requirement.marker is None or requirement.marker.evaluate(target):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"two versions of {name}"
            found[name] = text
    return found


def resolve(folder: Path, python: str, glibc: int, processor: str, lock_entries: dict[str, str]) -> dict[str, Any]:
    """pip's report about them: name and metadata of what it would install."""
    requirements, report = folder / "requirements.txt", folder / "report.json"
    requirements.write_text("".join(text.rstrip("\\\n ") + "\n" for text in lock_entries.values()))
    platforms = [f"manylinux_2_{minor}_{processor}" for minor in range(glibc, 4, -1)]
    platforms += [f"{older}_{processor}" for older in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--dry-run",
                "--no-deps",
            ),
            *("--require-hashes", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp"),
            "--ignore-requires-python",  # older pips compare with the Python that runs them: the test does it itself
            *(f"--platform={platform}" for platform in platforms),
            *(f"--target={folder / 'nowhere'}", f"--report={report}", f"--requirement={requirements}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    installs = json.loads(report.read_text())["install"]
    return {canonicalize_name(one["metadata"]["name"]): one["metadata"] for one in installs}


def missing(requirements: list[str], versions: dict[str, str], target: dict[str, str]) -> list[str]:
    """Those of the requirements, extras left aside, that hold in this environment and are not met."""
    parsed = [Requirement(text) for text in requirements]
    needed = [one for one in parsed if one.marker is None or one.marker.evaluate(target)]
    return [
        str(one)
        for one in needed
        if not one.specifier.contains(versions.get(canonicalize_name(one.name), ""), prereleases=True)
    ]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_lock_can_be_installed_and_is_complete(system: str, tmp_path: Path) -> None:
    python, glibc, processor = SYSTEMS[system]
    target = environment(python, processor)
    told = told_to_install(PROJECT / "ami/requirements.lock", target)
    told |= told_to_install(PROJECT / "ami/build-requirements.lock", target)
    with_wheels = {name: text for name, text in told.items() if name not in NO_WHEELS}
    metadata = resolve(tmp_path, python, glibc, processor, with_wheels)
    assert metadata.keys() == with_wheels.keys()
    versions = {name: one["version"] for name, one in metadata.items()}
    for name, text in told.items():
        versions.setdefault(name, re.search(r"==(\S+)", text)[1])

    config = configparser.ConfigParser()
    config.read(PROJECT / "setup.cfg")
    own = [line for line in config["options"]["install_requires"].splitlines() if line and not line.startswith("#")]
    own += [line for line in (PROJECT / "ami/requirements.in").read_text().splitlines() if not line.startswith("#")]
    assert missing(own, versions, target) == []
    for name, one in metadata.items():
        assert SpecifierSet(one.get("requires_python", "")).contains(target["python_full_version"]), name
        assert missing(one.get("requires_dist", []), versions, target) == [], name
