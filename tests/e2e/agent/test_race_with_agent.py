"""The gate race with the real ``clearml-agent``: tasks are enqueued and the node tries to retire, both at random moments.

Each trial ends in one of two ways: the node could have ended, and the task still waits in its queue (the next trial has it pulled);
or the node was found busy, and the task runs to its own end. ``make race TRIALS=2000`` runs more than the continuous integration.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from scaler_plugin.core.model import SlotState
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess

from ...waiting import PATIENCE_S

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(0)]

TRIALS = int(os.environ.get("SCALER_RACE_TRIALS", "200"))
#: Which side wins is chance: both must have won, in at most so many times the trials.
MORE = 5
QUEUE = "urgent"
#: The agent asks for a task every 0.2 s: so about every third time the task is pulled before the gate is closed. The others cost
#: little time, and it is between the two that the race is.
SPAN_S = 0.15
#: How long the server's answer takes after it has popped the task: the window in which only the gate knows of a pull.
ANSWER_S = 0.03


@pytest.fixture(scope="module")
def clearml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClearmlApiProcess]:
    """A server whose answers to pulls take a while."""
    with ClearmlApiProcess(tmp_path_factory.mktemp("clearml"), faults=True) as server:
        slow = {"action": "get_next_task", "hang_s": ANSWER_S, "after": True}
        requests.post(f"{server.url}/_faults", json=slow, timeout=PATIENCE_S).raise_for_status()
        yield server


class Race:
    """One agent on one node, which goes on over all trials."""

    def __init__(self, node: Any, ledger: Path, dice: random.Random) -> None:
        self.node = node
        self.ledger = ledger
        self.dice = dice
        self.outcomes: Counter[str] = Counter()
        self.refused = 0  # trials in which the gate could not be closed at once, as a pull was under way
        self.queue = node.clearml.queue(QUEUE)
        self.tasks: list[str] = []
        self.waiting: str | None = None

    def trial(self) -> None:
        enqueued = threading.Event()
        if self.waiting is None:
            self.waiting = self._create()
            threading.Thread(target=self._enqueue_later, args=(self.waiting, enqueued), daemon=True).start()
        else:
            enqueued.set()
        self._pause()
        refused = False
        while not self.node.sidecar.close():
            refused = True
        self.refused += refused
        state = self.node.slot().state
        assert state in (SlotState.IDLE, SlotState.BUSY), state
        assert enqueued.wait(PATIENCE_S)
        if state is SlotState.IDLE:
            self._retired(self.waiting)
        else:
            self.node.sidecar.open()
            self.node.wait_for_status(self.waiting, "completed")
            self.node.wait_for_state(SlotState.IDLE)
            self.waiting = None
            self.outcomes["found busy, and the task ran to its end"] += 1

    def _retired(self, task: str) -> None:
        """As long as the gate is closed the task waits, though the agent asks on."""
        if self.dice.random() < 0.3:
            self._pause()
        assert self.node.clearml.waiting(QUEUE) == [task], (
            "the gate was closed on an idle slot, and the task was pulled"
        )
        assert self.node.clearml.status(task) == "queued"
        assert self.node.slot().state is SlotState.IDLE
        self.node.sidecar.open()
        self.outcomes["retired, and the task waited in its queue"] += 1

    def finish(self) -> None:
        if self.waiting is not None:
            self.node.wait_for_status(self.waiting, "completed")

    def lost(self) -> list[str]:
        return [task for task in self.tasks if self.node.clearml.status(task) != "completed"]

    def disturbed(self, transitions: list[dict[str, Any]]) -> dict[str, Any]:
        """Tasks that did not go straight from the queue through one run to their end, and how they went."""
        said = Counter(tuple(json.loads(line)) for line in self.ledger.read_text().splitlines())
        steps: dict[str, list[str]] = {task: [] for task in self.tasks}
        for change in transitions:
            if change["task"] in steps and change["from"] != change["to"]:
                steps[change["task"]].append(change["to"])
        ways = {task: (steps[task], said[task, "began"], said[task, "ended"]) for task in self.tasks}
        return {
            task: way for task, way in ways.items() if way != (["created", "queued", "in_progress", "completed"], 1, 1)
        }

    def _create(self) -> str:
        diff = (
            "import json, os, time\n"
            "def tell(what):\n"
            f"    file = os.open({str(self.ledger)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
            "    os.write(file, (json.dumps([os.environ['CLEARML_TASK_ID'], what]) + '\\n').encode())\n"
            "tell('began')\n"
            "time.sleep(0.1)\n"
            "tell('ended')\n"
        )
        script = {"binary": "python3", "repository": "", "entry_point": "race.py", "working_dir": ".", "diff": diff}
        task: str = self.node.clearml.call("tasks.create", name="a task", type="testing", script=script)["id"]
        self.tasks.append(task)
        return task

    def _enqueue_later(self, task: str, enqueued: threading.Event) -> None:
        self._pause()
        self.node.clearml.call("tasks.enqueue", task=task, queue=self.queue)
        enqueued.set()

    def _pause(self) -> None:
        """The random moments are the point of a race."""
        time.sleep(self.dice.uniform(0.0, SPAN_S))


@pytest.mark.parametrize("agent_folder", ["3.0.3"], indirect=True)
def test_no_task_is_lost_or_disturbed_however_pull_and_retiring_race(node: Any, tmp_path: Path, clearml: Any) -> None:
    race = Race(node, tmp_path / "ledger", random.Random(3))
    node.start_agent()
    node.wait_for_state(SlotState.IDLE)
    began = time.monotonic()
    trials = 0
    while trials < TRIALS or (len(race.outcomes) < 2 and trials < MORE * TRIALS):
        race.trial()
        trials += 1
    race.finish()
    lost = race.lost()
    disturbed = race.disturbed(requests.get(f"{clearml.url}/_transitions", timeout=PATIENCE_S).json())
    said = {
        "trials": trials,
        "outcomes": dict(race.outcomes),
        "closings_refused_during_a_pull": race.refused,
        "tasks": len(race.tasks),
        "lost": len(lost),
        "disturbed": len(disturbed),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(f"\n{json.dumps({'gate race with clearml-agent 3.0.3': said})}")
    assert not lost, lost
    assert not disturbed, disturbed
    assert len(race.outcomes) == 2, f"the race was always won by the same side: {dict(race.outcomes)}"
