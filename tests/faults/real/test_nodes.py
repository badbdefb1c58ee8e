"""A node is cut off, taken away, filled up, or its sidecar is killed again and again: what its task is owed, it gets."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from scaler_plugin.cloud.metadata import SpotInterruption
from scaler_plugin.localcloud.imds import read_facts, write_facts
from scaler_plugin.localcloud.world import CLEARML, EC2

from .cluster import Cluster, make_config
from .record import runs_by_task

#: Longer than a node's lease and a leader's: etcd has forgotten the node.
CUT_S = 40.0
KILLS = 50
STATE_DISK_BYTES = 256 * 1024


@pytest.mark.long_fault
def test_a_busy_node_cut_off_from_everything_keeps_its_task(cluster: Callable[..., Cluster]) -> None:
    """Nobody takes the task for lost, since EC2 says that the machine lives; it ends by itself, and is reported afterwards."""
    played = cluster()
    release = played.hold(1)
    (node,) = played.busy()
    servers = (*played.etcd_servers, EC2, CLEARML)
    cut_at = time.monotonic()
    played.ground.cut(node, *servers)
    played.wait_for("etcd forgetting the node", lambda: not played.busy())
    played.report("forgotten_after_s", round(time.monotonic() - cut_at, 1))
    played.wait_for("the end of the cut", lambda: time.monotonic() - cut_at > CUT_S)
    played.ground.heal(node, *servers)
    release.touch()

    played.must_end_well()


def test_a_spot_task_saves_its_state_and_resumes_elsewhere_before_ec2_takes_its_instance(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    hook = (
        f'touch "{tmp_path}/$SCALER_TASK_ID.wanted"\n'
        f'while [ ! -e "{tmp_path}/$SCALER_TASK_ID.saved" ]; do sleep 0.1; done\n'
    )
    played = cluster(make_config(market="spot", on_interruption=hook, on_interruption_timeout="20s"))
    release = played.hold(1, checkpoint=tmp_path)
    (task,) = played.tasks
    (node,) = played.busy()
    facts = played.folder(node).facts
    told_at = time.time()
    taken_at = told_at + 120.0
    write_facts(facts, replace(read_facts(facts), spot_interruption=SpotInterruption("terminate", taken_at)))
    played.wait_for("the notice being known", lambda: played.events("interrupted"))
    (interrupted,) = played.events("interrupted")
    assert interrupted.about == node
    played.report("notice_known_after_s", round(interrupted.at - told_at, 1))
    played.wait_for("the task's second run", lambda: len(played.runs()) == 2)
    release.touch()

    record = played.must_end_well(disturbed={task})
    played.report("back_in_queue_after_s", round(played.last(task, "queued") - told_at, 1))
    first, second = runs_by_task(record)[task]
    assert first.node == node != second.node
    assert played.last(task, "queued") < taken_at
    assert not first.ended
    saved = float((tmp_path / f"{task}.saved").read_text())
    assert (first.resumed_at, second.resumed_at) == (0.0, saved), "it began anew instead of from what was saved"
    assert saved > 0


@pytest.mark.long_fault
def test_a_full_disk_under_the_nodes_state_costs_no_task(cluster: Callable[..., Cluster]) -> None:
    played = cluster(state_disk_bytes=STATE_DISK_BYTES)
    release = played.hold(1)
    (node,) = played.busy()
    filler = played.folder(node).state / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert os.statvfs(filler).f_bavail == 0
    release.touch()
    played.enqueue(1, 2)

    played.must_end_well()


@pytest.mark.long_fault
def test_a_sidecar_killed_fifty_times_during_a_task_does_not_disturb_it(cluster: Callable[..., Cluster]) -> None:
    played = cluster()
    release = played.hold(1)
    (node,) = played.busy()
    dice = random.Random(50)
    last = 0
    for _ in range(KILLS):
        played.wait_for("the sidecar's restart", lambda last=last: played.unit(node) != last)
        moment = time.monotonic() + dice.random()
        # Anywhere in its first second: while it starts, reads its records, registers, looks at the gate.
        played.wait_for("a random moment", lambda moment=moment: time.monotonic() >= moment)
        last = played.kill(node)
    assert played.clearml.statuses(played.tasks) == dict.fromkeys(played.tasks, "in_progress")
    release.touch()

    played.must_end_well()
