"""The adversary itself: a seed replays exactly, and a failing one is shrunk to what it needs."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from scaler_plugin.agent.memory_gates import MemoryGates
from scaler_plugin.simulation import chaos
from scaler_plugin.simulation.faults import Kind


@pytest.fixture(autouse=True)
def _quiet() -> None:
    chaos.silence_logs()


def test_a_seed_replays_exactly() -> None:
    first = chaos.run(7, chaos.faults_of(7))
    again = chaos.run(7, chaos.faults_of(7))
    assert first == again
    assert len(first.history) > 100


def test_another_seed_is_another_world() -> None:
    assert chaos.faults_of(1) != chaos.faults_of(2)


def test_the_seeds_of_ci_use_every_fault() -> None:
    used = {fault.kind for seed in range(1, 301) for fault in chaos.faults_of(seed)}
    assert used == set(Kind)


@pytest.mark.slow
def test_a_failing_seed_is_shrunk_to_the_faults_it_needs_and_tells_its_history() -> None:
    with patch.object(MemoryGates, "close", lambda _self: True):
        broken = next(
            outcome for seed in range(1, 50) if (outcome := chaos.run(seed, chaos.faults_of(seed))).broken is not None
        )
        smallest = chaos.shrink(broken)
    assert smallest.broken is not None
    assert len(smallest.faults) < len(broken.faults)
    assert any("BROKEN" in line for line in smallest.history)
    text = chaos.report([broken], 1.0)
    assert f"seed {broken.seed} FAILED" in text
