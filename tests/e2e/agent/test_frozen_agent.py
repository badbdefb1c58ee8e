"""An agent that stands still in the middle of a pull: the sidecar must show that it may hold a task nobody knows of."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from scaler_plugin.agent.pull_watch import LONG_PULL_S
from scaler_plugin.agent.slots import NodeSlots
from scaler_plugin.core.model import SlotState
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess

from ...waiting import PATIENCE_S

pytestmark = [pytest.mark.real, pytest.mark.slow]

QUICK = "print('done quickly')\n"


class SkippingClock:
    """The real clocks, which a test can put forward."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def now(self) -> float:
        return time.time() + self.skipped

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped


@pytest.fixture(scope="module")
def clearml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClearmlApiProcess]:
    with ClearmlApiProcess(tmp_path_factory.mktemp("clearml"), faults=True) as server:
        yield server


def test_an_agent_stopped_between_the_servers_pop_and_its_own_note_is_shown_as_pulling(
    node: Any, clearml: ClearmlApiProcess
) -> None:
    clock = SkippingClock()
    sidecar = NodeSlots(node.state_dir, 1, node.setup.worker_ids, clock)
    agent = node.start_agent()
    node.wait_for_state(SlotState.IDLE)
    # The server pops the task and takes its time to say so: in this moment the agent stops.
    slow = {"action": "queues.get_next_task", "hang_s": 6, "after": True}
    requests.post(f"{clearml.url}/_faults", json=slow, timeout=PATIENCE_S).raise_for_status()
    task = node.clearml.enqueue(QUICK, "urgent")
    node.wait_for("the server's pop", lambda: not node.clearml.waiting("urgent"))
    agent.send_signal(signal.SIGSTOP)
    try:
        began = clock.now()
        assert sidecar.slots()[0].pulling_since is None
        looked = clock.now()
        clock.skipped += LONG_PULL_S + 1
        since = sidecar.slots()[0].pulling_since
        assert since is not None
        assert began <= since <= looked
        assert node.clearml.status(task) == "queued"
        assert not sidecar.close(), "the node could end with the task in the agent's hands"
    finally:
        requests.delete(f"{clearml.url}/_faults", timeout=PATIENCE_S).raise_for_status()
        agent.send_signal(signal.SIGCONT)
    node.wait_for_status(task, "completed")
    # Not at once: this sidecar has not looked since, and the first look may meet one of the agent's next short pulls.
    node.wait_for("the end of the long pull", lambda: sidecar.slots()[0].pulling_since is None)
