"""A sidecar stays on every instance for all its life: what it loads, it costs each of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "boto3",
    "clearml",
    "pydantic",
    "yaml",
    "typer",
    "rich",
    "requests",
    "scaler_plugin.leader.service",
    "moto",
    "flask",
)


def loaded_after(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*(n for n, m in sys.modules.items() if m is not None))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("heavy", HEAVY)
def test_a_sidecar_that_does_not_lead_loads_no_library_that_only_others_need(heavy: str, loaded: set[str]) -> None:
    assert heavy not in loaded


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    # The very imports of the process, and the store, which it opens at once.
    return loaded_after(
        "import scaler_plugin.node.__main__, scaler_plugin.node.runner, scaler_plugin.coordination.etcd_store"
    )
