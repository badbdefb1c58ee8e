"""EC2 or ClearML fail for a minute, in each way a server can fail: it costs time, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from .cluster import Cluster

pytestmark = pytest.mark.long_fault

MINUTE_S = 60.0

EC2_FAULTS = {
    "answers 500": {"action": "*", "kind": "error"},
    "throttles": {"action": "*", "kind": "throttle"},
    "says nothing": {"action": "*", "kind": "hang", "hang_s": 20.0},
    "does the work and then says nothing": {"action": "RunInstances", "kind": "drop_after", "hang_s": 3.0},
}

CLEARML_FAULTS = {
    "answers 500": {"action": ".", "status": 500, "subcode": 0},
    "says nothing": {"action": ".", "hang_s": 15.0, "drop": True},
    "refuses everybody's credentials": {"action": ".", "status": 401, "subcode": 30},
}


@pytest.mark.parametrize("how", EC2_FAULTS)
def test_ec2_fails_for_a_minute_and_starts_what_was_asked_for_afterwards(
    how: str, cluster: Callable[..., Cluster]
) -> None:
    played = cluster()
    fault: dict[str, Any] = EC2_FAULTS[how]
    played.fail_ec2(**fault, seconds=MINUTE_S)
    played.enqueue(2, 3)
    took = played.wait_for("all tasks running", lambda: "queued" not in played.clearml.statuses(played.tasks).values())
    played.report("tasks_started_after_s", round(took, 1))

    record = played.must_end_well()
    assert len(record.instances) <= len(played.tasks) + 1


@pytest.mark.parametrize("how", CLEARML_FAULTS)
def test_clearml_fails_for_a_minute_while_tasks_run_and_others_wait(how: str, cluster: Callable[..., Cluster]) -> None:
    played = cluster()
    release = played.hold(1)
    held = tuple(played.tasks)
    played.enqueue(1, 2)
    fault: dict[str, Any] = CLEARML_FAULTS[how]
    until = time.monotonic() + MINUTE_S
    played.clearml.fail(**fault, seconds=MINUTE_S)
    release.touch()
    played.wait_for("the end of the minute", lambda: time.monotonic() > until)

    # The stock agent tells the end of a task once, and gives up when the server refuses it.
    played.must_end_well(unreported=held)
