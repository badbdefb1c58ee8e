"""The seeded faults can fail: each promise's mechanism is taken away in turn, and the very seeds that CI runs must notice."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

from scaler_plugin.simulation import chaos


def _load_mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", Path(__file__).with_name("mutants.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module


mutants = _load_mutants()
CI_SEEDS = 300
#: Where a mutant can only show in some worlds, those come first and alone; all of them are among CI's seeds.
WORLDS: dict[str, Iterable[int]] = {
    "draining_is_supply": range(chaos.CALM_EVERY, CI_SEEDS + 1, chaos.CALM_EVERY),
    "no_turns": range(chaos.SLOW_EVERY, CI_SEEDS + 1, chaos.SLOW_EVERY),
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    chaos.silence_logs()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(mutants.MUTANTS))
def test_the_seeds_of_ci_catch(name: str) -> None:
    for seed in WORLDS.get(name, range(1, CI_SEEDS + 1)):
        with mutants.MUTANTS[name]():
            outcome = chaos.run(seed, chaos.faults_of(seed))
        if outcome.broken is not None:
            print(f"{name}: caught by seed {seed}: {outcome.broken}")
            return
    pytest.fail(f"no seed of {CI_SEEDS} notices {name}: {mutants.MUTANTS[name].__doc__}")
