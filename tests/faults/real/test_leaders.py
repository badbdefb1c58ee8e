"""The leader is killed, frozen or cut off: another follows, nobody acts out of term, and no task notices."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from scaler_plugin.localcloud.world import CLEARML, EC2

from .cluster import LEADER_TTL_S, STANDBYS, Cluster
from .invariants import terms_of

#: A call that was begun in time may reach its server a moment later.
UNDER_WAY_S = 2.0


def followed(cluster: Cluster, term: int) -> float:
    """Wait until another leads; seconds that it took."""

    def another() -> bool:
        leader = cluster.leader()
        return leader is not None and leader.term > term

    took = cluster.wait_for("another leader", another)
    cluster.report("failover_s", round(took, 2))
    return took


def test_a_leader_killed_with_sigkill_is_followed_and_no_task_notices(cluster: Callable[..., Cluster]) -> None:
    played = cluster()
    release = played.hold(2)
    leader = played.must_lead()
    played.kill(leader.candidate)
    followed(played, leader.term)
    release.touch()
    played.enqueue(1, 1)

    played.must_end_well()


def test_a_leader_frozen_for_three_ttls_does_not_act_when_it_wakes_up(cluster: Callable[..., Cluster]) -> None:
    played = cluster()
    leader = played.must_lead()
    assert leader.candidate in STANDBYS
    # Work is there for it to act on the moment it wakes up.
    played.enqueue(1, 4)
    played.wait_for("a launch", lambda: bool(played.instances()))
    pid = played.kill(leader.candidate, number=signal.SIGSTOP)
    try:
        frozen_at = time.monotonic()
        followed(played, leader.term)
        played.wait_for("three TTLs", lambda: time.monotonic() - frozen_at > 3 * LEADER_TTL_S)
        played.enqueue(2, 4)
    finally:
        woken_at = time.time()
        os.kill(pid, signal.SIGCONT)
    played.wait_for("all tasks running or done", lambda: "queued" not in played.clearml.statuses(played.tasks).values())
    record = played.must_end_well()

    # A later term of its own would be another matter.
    later = [term for term in terms_of(record, played.world.keys) if term.since > woken_at]
    until = min((t.since for t in later if played.machine(t.candidate) == leader.candidate), default=float("inf"))
    address = played.ground.address(leader.candidate)
    # It may have been stopped on the point of asking a question, and asks it on waking up.
    acted = [
        call["action"]
        for call in record.ec2_calls
        if call["address"] == address and woken_at <= call["time"] < until and not call["action"].startswith("Describe")
    ]
    assert acted == [], "the woken leader changed something in EC2 out of its term"
    changes = [
        call["action"]
        for call in played.clearml_calls(woken_at, address)
        if call["t"] < until and not call["action"].startswith(("queues.get", "workers.get", "tasks.get", "auth."))
    ]
    assert changes == [], "the woken leader changed something in ClearML out of its term"


def test_a_leader_cut_off_from_etcd_alone_is_followed_and_launches_nothing(cluster: Callable[..., Cluster]) -> None:
    """It still reaches EC2 and ClearML, and sees the tasks that wait."""
    played = cluster()
    leader = played.must_lead()
    assert leader.candidate in STANDBYS
    played.ground.cut(leader.candidate, *played.etcd_servers)
    followed(played, leader.term)
    successor = played.must_lead()
    played.enqueue(2, 3)
    played.wait_for("all tasks done", played.all_completed)
    healed_at = time.time()
    played.ground.heal(leader.candidate, *played.etcd_servers)
    record = played.must_end_well()

    address = played.ground.address(leader.candidate)
    late = [
        call
        for call in record.ec2_calls
        if call["address"] == address and successor.since + UNDER_WAY_S < call["time"] < healed_at
    ]
    assert late == [], "it called EC2 after another led"
    assert all(call.address != address for call in record.launch_calls), "it launched while cut off from etcd"


@pytest.mark.long_fault
def test_a_leader_cut_off_from_everything_is_followed(cluster: Callable[..., Cluster]) -> None:
    played = cluster()
    leader = played.must_lead()
    servers = (*played.etcd_servers, EC2, CLEARML)
    played.ground.cut(leader.candidate, *servers)
    followed(played, leader.term)
    played.enqueue(2, 3)
    played.wait_for("all tasks done", played.all_completed)
    played.ground.heal(leader.candidate, *servers)

    played.must_end_well()
