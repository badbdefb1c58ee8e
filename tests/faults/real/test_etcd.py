"""etcd loses members, its quorum or all of its data: tasks go on, nothing is launched twice, and all is well afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from .cluster import LEADER_TTL_S, Cluster

AWAY_S = 30.0


def test_an_etcd_leader_killed_with_sigkill_costs_no_task(cluster: Callable[..., Cluster]) -> None:
    played = cluster()
    release = played.hold(2)
    played.world.parts.outage(played.etcd_leader(), 10.0)
    took = played.wait_for("etcd's next answer", lambda: played.leader() is not None)
    played.report("etcd_answers_after_s", round(took, 2))
    release.touch()
    played.enqueue(1, 1)

    played.must_end_well()


@pytest.mark.long_fault
def test_an_etcd_member_killed_with_sigkill_costs_not_even_an_election(cluster: Callable[..., Cluster]) -> None:
    played = cluster()
    release = played.hold(2)
    leader = played.must_lead()
    leads_etcd = played.etcd_leader()
    follower = next(name for name in played.etcd_servers if name != leads_etcd)
    played.world.parts.outage(follower, 15.0)
    played.wait_for("its return", lambda: played.world.parts.running(follower))
    assert played.must_lead().term == leader.term, "the loss of one etcd member cost an election"
    release.touch()

    played.must_end_well()


@pytest.mark.long_fault
def test_without_quorum_for_half_a_minute_nothing_is_launched_and_no_task_ends(cluster: Callable[..., Cluster]) -> None:
    played = cluster()
    release = played.hold(1)
    lost = played.etcd_servers[:2]
    for name in lost:
        played.world.parts.outage(name, AWAY_S)
    lost_at = time.time()
    played.enqueue(2, 1)
    played.wait_for("the members' return", lambda: all(played.world.parts.running(name) for name in lost))
    back_at = time.time()
    played.wait_for("a leader", lambda: played.leader() is not None)
    played.report("leads_again_after_s", round(time.time() - back_at, 2))
    release.touch()
    record = played.must_end_well()

    # A call that was under way when the quorum went was promised before.
    launched = [call for call in record.launch_calls if lost_at + LEADER_TTL_S < call.at < back_at - 1]
    assert launched == [], "an instance was launched while nobody could lead"


@pytest.mark.long_fault
def test_an_emptied_etcd_brings_no_second_fleet(cluster: Callable[..., Cluster]) -> None:
    """The tasks run on; somebody publishes the configuration again, and the fleet is found by its tags."""
    played = cluster()
    release = played.hold(2)
    instances = len(played.instances())
    played.wipe_etcd()
    played.wait_for("etcd's answer", lambda: all(member.running for member in played.world.etcd))
    for member in played.world.etcd:
        member.wait_ready()
    played.world.push_config()
    played.wait_for("the nodes' return", lambda: len(played.busy()) == 2)
    assert len(played.instances()) == instances, "the emptied etcd brought more instances for the same tasks"
    release.touch()
    played.wait_for("the completion of every task", played.all_completed)
    played.enqueue(1, 1)

    played.must_end_well()
