"""The servers that the contract is held against: one stand-in per module, one in memory per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler_plugin.core.model import QueueName
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess

from .worlds import LiveWorld, MemoryWorld, World


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClearmlApiProcess]:
    with ClearmlApiProcess(tmp_path_factory.mktemp("clearml"), faults=True) as process:
        yield process


@pytest.fixture
def live(api: ClearmlApiProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LiveWorld]:
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "no-such-clearml.conf"))
    monkeypatch.delenv("CLEARML_AUTH_TOKEN", raising=False)
    world = LiveWorld(api)
    yield world
    world.heal()
    world.close()


@pytest.fixture(params=["memory", pytest.param("api", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest) -> World:
    return MemoryWorld() if request.param == "memory" else request.getfixturevalue("live")


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> QueueName:
    """A queue of this test alone: the stand-in lives as long as the module."""
    return QueueName(f"queue of {request.node.name}")
