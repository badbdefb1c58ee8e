"""Agents that the sidecar has no right to freeze or thaw, or that are gone when it tries: a sentence, and no crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from scaler_plugin.agent.freeze import FreezeGates
from scaler_plugin.agent.stock_processes import WORKER_VARIABLE
from scaler_plugin.core.model import QueueName, SlotState, WorkerId
from scaler_plugin.core.ports import TaskServer
from scaler_plugin.simulation.clock import VirtualClock

WORKER = WorkerId(f"worker-of-{os.getpid()}")


@pytest.fixture
def agent() -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a stock daemon."""
    code = "import time; print('up', flush=True); time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "clearml_agent", "daemon"],
        env={WORKER_VARIABLE: WORKER},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def no_server() -> TaskServer:
    raise AssertionError("there is nothing to ask it")


def refuse(error: type[OSError], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []

    def kill(_pid: int, number: int) -> None:
        asked.append(number)
        raise error(1, "refused")

    monkeypatch.setattr(os, "kill", kill)
    return asked


def test_an_agent_that_may_not_be_signalled_leaves_a_node_that_works_and_never_retires(
    agent: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock()
    asked = refuse(PermissionError, monkeypatch)
    with structlog.testing.capture_logs() as logs:
        gates = FreezeGates([WORKER], [QueueName("q")], no_server, clock, tmp_path)
        assert gates.slots()[0].state is SlotState.IDLE
        for _ in range(3):
            assert not gates.close()
            clock.advance(60)
        gates.open()
    assert {signal.SIGSTOP, signal.SIGCONT} == set(asked)
    told = [line["problem"] for line in logs if line["event"] == "agent_not_signalled"]
    assert len(told) == 1
    assert f"process {agent.pid}" in told[0]
    assert "CAP_KILL" in told[0]


@pytest.mark.usefixtures("agent")
def test_an_agent_that_is_gone_when_it_is_signalled_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(ProcessLookupError, monkeypatch)
    gates = FreezeGates([WORKER], [QueueName("q")], no_server, VirtualClock(), tmp_path)
    assert not gates.close()
    gates.open()
