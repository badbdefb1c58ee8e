"""The gate's promise under a real race: agents in processes of their own pull while a sidecar tries to retire.

The queue is a file of its own with an atomic pop, so that each task is known to be popped by whom and when. The promise: at the
moment the sidecar holds the gate and sees idle, no popped task is unfinished, and none is popped as long as it holds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from scaler_plugin.agent.agent_slot import AgentSlot
from scaler_plugin.agent.slots import NodeSlots
from scaler_plugin.core.model import SlotState, TaskId

from ..waiting import PATIENCE_S

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(0)]

SLOTS = 3
#: ``make race`` sets how many; else as many as a minute has, and never fewer than these.
TRIALS = int(os.environ.get("SCALER_LOCK_TRIALS", "0"))
LEAST_TRIALS = 3000
MINUTE_S = 60.0


class WallClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class Tally:
    """What the server would know, in shared memory: tasks popped and tasks finished."""

    def __init__(self) -> None:
        self.popped = multiprocessing.Value("q", 0)
        self.finished = multiprocessing.Value("q", 0)


def pull_for_ever(state_dir: Path, slot: int, tally: Tally, stop: Event) -> None:
    agent = AgentSlot(state_dir, slot, f"w:{slot}")
    dice = random.Random(slot)
    while not stop.is_set():
        if not agent.try_enter_pull():
            time.sleep(dice.random() * 0.001)
            continue
        if dice.random() < 0.3:
            with tally.popped.get_lock():
                tally.popped.value += 1
            agent.finish_pull(TaskId(f"{slot}-{time.monotonic_ns()}"))
            time.sleep(dice.random() * 0.002)
            with tally.finished.get_lock():
                tally.finished.value += 1
            agent.task_ended(returned=True)
        else:
            agent.finish_pull(None)
        time.sleep(dice.random() * 0.004)


def more_trials(done: int, began: float) -> bool:
    if TRIALS:
        return done < TRIALS
    return done < LEAST_TRIALS or time.monotonic() - began < MINUTE_S


def test_no_task_is_popped_while_the_gate_is_closed_and_the_slots_are_idle(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    tally, stop = Tally(), spawn.Event()
    agents = [spawn.Process(target=pull_for_ever, args=(tmp_path, slot, tally, stop)) for slot in range(SLOTS)]
    for agent in agents:
        agent.start()
    sidecar = NodeSlots(tmp_path, SLOTS, [f"w:{slot}" for slot in range(SLOTS)], WallClock())
    outcomes: Counter[str] = Counter()
    dice = random.Random(99)
    began = time.monotonic()
    try:
        while more_trials(sum(outcomes.values()), began):
            time.sleep(dice.random() * 0.001)
            if not sidecar.close():
                outcomes["a pull was under way"] += 1
                continue
            states = {slot.state for slot in sidecar.slots()}
            if states != {SlotState.IDLE}:
                outcomes["busy"] += SlotState.BUSY in states
                outcomes["not reported yet"] += SlotState.BUSY not in states
            else:
                popped, finished = tally.popped.value, tally.finished.value
                assert popped == finished, "closed and idle, yet a popped task is unfinished"
                if dice.random() < 0.2:
                    time.sleep(0.002)  # give a wrong pull the time to happen
                assert tally.popped.value == popped, "closed and idle, yet a task was popped"
                outcomes["closed and idle"] += 1
            sidecar.open()
    finally:
        sidecar.open()
        stop.set()
        for agent in agents:
            agent.join(PATIENCE_S)
    said = {
        "trials": sum(outcomes.values()),
        "agents": SLOTS,
        "outcomes": dict(outcomes),
        "tasks": tally.popped.value,
        "lost": tally.popped.value - tally.finished.value,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(f"\n{json.dumps({'lock protocol': said})}")
    assert outcomes["closed and idle"] > 0
    assert outcomes["busy"] + outcomes["a pull was under way"] > 0
    assert tally.popped.value == tally.finished.value > 0
    assert all(agent.exitcode == 0 for agent in agents)
