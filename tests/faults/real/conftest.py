"""Real processes under real faults: ``make faults-real`` runs every scenario, a plain test run those that are quick.

They need root, and network namespaces. Where something is missing, CI and ``make faults-real`` fail; elsewhere the scenarios are
skipped with the sentence that says what is missing, and do not count as passed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.machines.ground import NamespaceGround, missing_for_namespaces
from scaler_plugin.localcloud.world import World, WorldOptions

from .cluster import Cluster, make_config

#: Set by ``make faults-real``.
ALL = os.environ.get("SCALER_FAULTS") == "all"
SUMMARY = Path(__file__).parents[3] / "build" / "faults-real"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long_fault: a scenario that only `make faults-real` runs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = [item for item in items if "namespaces" in getattr(item, "fixturenames", ())]
    for item in here:
        item.add_marker(pytest.mark.real)
        item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.timeout(900))
    if not ALL:
        long = [item for item in here if item.get_closest_marker("long_fault") is not None]
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


@pytest.fixture(scope="session")
def namespaces() -> None:
    if sentence := missing_for_namespaces():
        if ALL or os.environ.get("CI"):
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, namespaces: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Cluster]]:
    """Makes the scenario's cluster. ``config`` is :func:`make_config`'s default otherwise."""
    began = time.time()
    said: dict[str, object] = {"scenario": request.node.name}
    environment = dict(os.environ)
    worlds: list[tuple[World, NamespaceGround]] = []

    def make(config: ScalerConfig | None = None, state_disk_bytes: int | None = None) -> Cluster:
        ground = NamespaceGround(state_disk_bytes)
        ground.__enter__()
        options = WorldOptions(
            config=config or make_config(), boot_delay_s=0.0, etcd_members=3, ground=ground, faults=True, steady=True
        )
        world = World(options, Interruption())
        worlds.append((world, ground))
        world.__enter__()
        monkeypatch.setenv("NO_PROXY", ",".join(("127.0.0.1", "localhost", *ground.server_addresses)))
        return Cluster(world, ground, said.__setitem__)

    yield make
    for world, ground in worlds:
        if kept := os.environ.get("SCALER_FAULTS_KEEP"):
            keep_consoles(world, Path(kept) / request.node.name)
        world.__exit__()
        ground.close()
    os.environ.clear()
    os.environ.update(environment)
    said["seconds"] = round(time.time() - began, 1)
    SUMMARY.mkdir(parents=True, exist_ok=True)
    (SUMMARY / f"{request.node.name}.json").write_text(json.dumps(said) + "\n")
    print(f"\n{json.dumps(said)}")


def keep_consoles(world: World, folder: Path) -> None:
    """What the machines said, for the person who looks into a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    for console in world.folder.glob("**/console.log"):
        (folder / f"{console.parent.name}.log").write_bytes(console.read_bytes())
