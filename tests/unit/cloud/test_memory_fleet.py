"""What the simulated world builds on: the in-memory EC2's changes, faults and limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaler_plugin.cloud.memory_faults import Failure, Shortage
from scaler_plugin.cloud.memory_fleet import TERMINATED_LISTED_S, MemoryFleet, StateChange
from scaler_plugin.core.model import InstanceId, InstanceState, LaunchId, LaunchRequest, PoolName
from scaler_plugin.errors import CloudRefused, CloudUnavailable
from scaler_plugin.simulation.clock import VirtualClock

REQUEST = LaunchRequest("demo", PoolName("cpu"), LaunchId("l-1"), 1, "t3.micro", "ami-1")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(now=1000.0)


@pytest.fixture
def fleet(clock: VirtualClock) -> MemoryFleet:
    return MemoryFleet("demo", clock, boot_delay_s=30, end_delay_s=5)


def test_the_world_is_told_every_change_at_its_own_moment(fleet: MemoryFleet, clock: VirtualClock) -> None:
    (instance_id,) = fleet.run_instances(REQUEST, "t")
    clock.advance(100)
    fleet.guest_shut_down(instance_id)
    clock.advance(100)
    assert fleet.take_changes() == (
        StateChange(1000, instance_id, InstanceState.PENDING),
        StateChange(1030, instance_id, InstanceState.RUNNING),
        StateChange(1100, instance_id, InstanceState.SHUTTING_DOWN, "guest shutdown"),
        StateChange(1105, instance_id, InstanceState.TERMINATED),
    )
    assert fleet.take_changes() == ()


def test_the_clock_may_leap_to_the_next_change(fleet: MemoryFleet, clock: VirtualClock) -> None:
    assert fleet.next_change_at() is None
    (instance_id,) = fleet.run_instances(REQUEST, "t")
    assert fleet.next_change_at() == 1030
    clock.advance(30)
    assert fleet.next_change_at() is None
    fleet.interrupt(instance_id)
    assert fleet.next_change_at() == 1035


def test_a_wall_clock_that_jumps_moves_no_instance(fleet: MemoryFleet, clock: VirtualClock) -> None:
    fleet.run_instances(REQUEST, "t")
    clock.jump_wall(3600)
    assert [i.state for i in fleet.instances()] == [InstanceState.PENDING]


def test_an_instance_that_ends_while_it_boots_never_runs(fleet: MemoryFleet, clock: VirtualClock) -> None:
    (instance_id,) = fleet.run_instances(REQUEST, "t")
    fleet.terminate([instance_id])
    clock.advance(100)
    assert InstanceState.RUNNING not in [change.state for change in fleet.take_changes()]


def test_an_instance_long_terminated_is_forgotten(fleet: MemoryFleet, clock: VirtualClock) -> None:
    (instance_id,) = fleet.run_instances(REQUEST, "t")
    fleet.terminate([instance_id])
    clock.advance(5)
    assert len(fleet.instances()) == 1
    clock.advance(TERMINATED_LISTED_S)
    assert fleet.instances() == ()
    assert fleet.console_output(instance_id) == ""


def test_the_user_data_of_a_machine_can_be_read(fleet: MemoryFleet) -> None:
    (instance_id,) = fleet.run_instances(replace(REQUEST, user_data="a: b"), "t")
    assert fleet.request_of(instance_id).user_data == "a: b"


def test_the_account_has_a_limit(fleet: MemoryFleet) -> None:
    fleet.faults.account_limit = 2
    first, _ = fleet.run_instances(replace(REQUEST, count=3), "a")
    with pytest.raises(CloudRefused) as refused:
        fleet.run_instances(REQUEST, "b")
    assert refused.value.code == "VcpuLimitExceeded"
    fleet.terminate([first])
    assert len(fleet.run_instances(REQUEST, "b")) == 1


def test_the_smaller_of_two_limits_binds(fleet: MemoryFleet) -> None:
    fleet.faults.shortages += [Shortage(available=5), Shortage("t3.micro", available=1)]
    assert len(fleet.run_instances(replace(REQUEST, count=9), "a")) == 1


def test_a_listing_lags_by_the_given_time(fleet: MemoryFleet, clock: VirtualClock) -> None:
    fleet.faults.listing_lag_s = 10
    (instance_id,) = fleet.run_instances(REQUEST, "t")
    clock.advance(9)
    assert fleet.instances() == ()
    clock.advance(25)
    assert [i.state for i in fleet.instances()] == [InstanceState.PENDING]
    fleet.terminate([instance_id])
    clock.advance(6)
    assert [i.state for i in fleet.instances()] == [InstanceState.RUNNING]


def test_failures_are_used_up_in_order(fleet: MemoryFleet) -> None:
    fleet.faults.fail_next("instances", Failure.THROTTLED)
    fleet.faults.fail_next("instances", Failure.REFUSED)
    with pytest.raises(CloudUnavailable):
        fleet.instances()
    with pytest.raises(CloudRefused):
        fleet.instances()
    assert fleet.instances() == ()


def test_an_outage_lasts_until_it_is_ended(fleet: MemoryFleet) -> None:
    fleet.faults.fail_all(Failure.LOST_REQUEST)
    for _ in range(3):
        with pytest.raises(CloudUnavailable):
            fleet.run_instances(REQUEST, "t")
    with pytest.raises(CloudUnavailable):
        fleet.terminate([InstanceId("i-1")])
    fleet.faults.fail_all(None)
    assert fleet.instances() == ()


def test_the_same_calls_give_the_same_ids(clock: VirtualClock) -> None:
    runs = [MemoryFleet("demo", clock).run_instances(replace(REQUEST, count=3), "t") for _ in range(2)]
    assert runs[0] == runs[1]
