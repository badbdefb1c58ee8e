"""The EC2 port: the real adapter on the double, and the in-memory twin, behave the same."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import pytest

from scaler_plugin.cloud.ec2 import Ec2Fleet
from scaler_plugin.cloud.memory_faults import Failure, Shortage
from scaler_plugin.cloud.memory_fleet import MemoryFleet
from scaler_plugin.core.model import InstanceId, InstanceState, LaunchId, LaunchRequest, Market, PoolName, Volume
from scaler_plugin.core.ports import Fleet
from scaler_plugin.errors import CloudRefused, CloudUnavailable
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID, Ec2DoubleProcess
from scaler_plugin.simulation.clock import VirtualClock

REQUEST = LaunchRequest(
    cluster="demo",
    pool=PoolName("cpu"),
    launch_id=LaunchId("l-1"),
    count=3,
    instance_type="t3.micro",
    image_id=DEMO_IMAGE_ID,
    zone="eu-west-1b",
    volume=Volume("/dev/sda1", 20),
    tags=(("team", "vision"),),
    user_data="cluster: demo\n",
)

CLUSTER_NUMBERS = count(1)
UNKNOWN = InstanceId("i-00000000000000bad")


@dataclass
class World:
    """The port under test, and what happens around it."""

    fleet: Fleet
    request: LaunchRequest
    boot: Callable[[InstanceId], None]
    end: Callable[[InstanceId], None]
    shut_down_guest: Callable[[InstanceId], None]
    write_console: Callable[[InstanceId, str], None]
    fail_launch: Callable[[Failure], None]
    lack: Callable[[Shortage], None]
    lag: Callable[[float], None]

    def run(self, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        # All tests share one double, each with a cluster and tokens of its own.
        return self.fleet.run_instances(request, f"{self.request.cluster}-{token}")


def memory_world() -> World:
    clock = VirtualClock()
    fleet = MemoryFleet("demo", clock, boot_delay_s=30, end_delay_s=5, images={DEMO_IMAGE_ID})
    return World(
        fleet,
        replace(REQUEST, cluster="demo"),
        boot=lambda _: clock.advance(31),
        end=lambda _: clock.advance(6),
        shut_down_guest=fleet.guest_shut_down,
        write_console=fleet.write_console,
        fail_launch=lambda failure: fleet.faults.fail_next("run_instances", failure),
        lack=fleet.faults.shortages.append,
        lag=lambda seconds: setattr(fleet.faults, "listing_lag_s", seconds),
    )


def ec2_world(url: str, cluster: str) -> World:
    def post(path: str, value: object) -> None:
        body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        urllib.request.urlopen(urllib.request.Request(url + path, data=body)).close()

    def fail_launch(failure: Failure) -> None:
        kinds = {
            Failure.LOST_REQUEST: {"kind": "hang", "hang_s": 0.05},
            Failure.LOST_ANSWER: {"kind": "drop_after", "hang_s": 0.05},
            Failure.THROTTLED: {"kind": "throttle"},
            Failure.REFUSED: {"kind": "error", "code": "UnauthorizedOperation", "status": 403},
        }
        post("/_faults", {"action": "RunInstances", "times": 1, **kinds[failure]})

    def lack(shortage: Shortage) -> None:
        wanted = {"InstanceType": shortage.instance_type, "market": shortage.market, "zone": shortage.zone}
        match = {name: str(getattr(value, "value", value)) for name, value in wanted.items() if value is not None}
        fault = {"action": "RunInstances", "kind": "no_capacity", "match": match, "available": shortage.available}
        post("/_faults", fault)

    return World(
        Ec2Fleet(cluster, region="eu-west-1", endpoint_url=url),
        replace(REQUEST, cluster=cluster),
        boot=lambda i: post(f"/_instances/{i}/state", {"state": "running"}),
        end=lambda i: post(f"/_instances/{i}/state", {"state": "terminated"}),
        shut_down_guest=lambda i: post(f"/_instances/{i}/shutdown", {}),
        write_console=lambda i, text: post(f"/_instances/{i}/console", text),
        fail_launch=fail_launch,
        lack=lack,
        lag=lambda seconds: post("/_faults", {"action": "DescribeInstances", "kind": "stale", "lag_s": seconds}),
    )


@pytest.fixture(scope="module")
def double_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    double = Ec2DoubleProcess(tmp_path_factory.mktemp("ec2"))
    yield double.start()
    double.stop()


@pytest.fixture(params=["memory", pytest.param("ec2", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    if request.param == "memory":
        yield memory_world()
        return
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    url: str = request.getfixturevalue("double_url")
    yield ec2_world(url, f"demo-{next(CLUSTER_NUMBERS)}")
    urllib.request.urlopen(urllib.request.Request(f"{url}/_faults", method="DELETE")).close()


def states(world: World) -> list[InstanceState]:
    return [instance.state for instance in world.fleet.instances()]


def test_a_launch_starts_its_whole_count_and_says_at_once_which(world: World) -> None:
    ids = world.run(world.request, "token")
    assert len(set(ids)) == 3
    assert states(world) == [InstanceState.PENDING] * 3


def test_an_instance_is_listed_with_what_it_was_launched_for(world: World) -> None:
    (instance_id,) = world.run(replace(world.request, count=1, market=Market.SPOT), "token")
    (instance,) = world.fleet.instances()
    assert instance.instance_id == instance_id
    assert (instance.pool, instance.launch_id) == (world.request.pool, world.request.launch_id)
    assert (instance.instance_type, instance.market, instance.zone) == ("t3.micro", Market.SPOT, "eu-west-1b")


def test_a_repeated_call_starts_nothing_and_gives_the_same_instances(world: World) -> None:
    assert world.run(world.request, "token") == world.run(world.request, "token")
    assert len(world.fleet.instances()) == 3


def test_another_token_starts_others(world: World) -> None:
    assert not set(world.run(world.request, "a")) & set(world.run(world.request, "b"))


@pytest.mark.parametrize("change", [{"count": 2}, {"user_data": "other"}, {"tags": ()}, {"market": Market.SPOT}])
def test_a_token_is_refused_for_another_request(world: World, change: dict[str, object]) -> None:
    world.run(world.request, "token")
    with pytest.raises(CloudRefused) as refused:
        world.run(replace(world.request, **change), "token")
    assert refused.value.code == "IdempotentParameterMismatch"
    assert len(world.fleet.instances()) == 3


def test_a_token_whose_instances_have_ended_starts_no_others(world: World) -> None:
    (instance_id,) = world.run(replace(world.request, count=1), "token")
    world.fleet.terminate([instance_id])
    world.end(instance_id)
    with pytest.raises(CloudRefused) as refused:
        world.run(replace(world.request, count=1), "token")
    assert refused.value.code == "IdempotentInstanceTerminated"


def test_a_token_of_more_than_64_characters_is_refused(world: World) -> None:
    longest = world.request.cluster.ljust(64, "-")
    world.fleet.run_instances(world.request, longest)
    with pytest.raises(CloudRefused):
        world.fleet.run_instances(world.request, longest + "-")


def test_an_instance_runs_when_it_has_booted(world: World) -> None:
    (instance_id,) = world.run(replace(world.request, count=1), "token")
    world.boot(instance_id)
    assert states(world) == [InstanceState.RUNNING]


def test_a_terminated_instance_first_shuts_down(world: World) -> None:
    (instance_id,) = world.run(replace(world.request, count=1), "token")
    world.fleet.terminate([instance_id])
    assert states(world) == [InstanceState.SHUTTING_DOWN]
    world.end(instance_id)
    assert states(world) == [InstanceState.TERMINATED]


def test_a_guest_that_shuts_down_ends_its_instance(world: World) -> None:
    (instance_id,) = world.run(replace(world.request, count=1), "token")
    world.boot(instance_id)
    world.shut_down_guest(instance_id)
    assert states(world) == [InstanceState.SHUTTING_DOWN]


def test_terminating_twice_or_the_unknown_is_no_error_and_spares_nobody(world: World) -> None:
    first, second, third = world.run(world.request, "token")
    world.fleet.terminate([first])
    world.fleet.terminate([UNKNOWN, first, InstanceId("i-00000000000000bae"), second])
    world.fleet.terminate([UNKNOWN])
    world.fleet.terminate([])
    left = [i.instance_id for i in world.fleet.instances() if not i.state.ending]
    assert left == [third]


def test_the_instances_of_a_launch_are_found_by_its_tag(world: World) -> None:
    ids = world.run(world.request, "a")
    world.run(replace(world.request, launch_id=LaunchId("l-2")), "b")
    world.fleet.terminate(ids[:1])
    assert {i.instance_id for i in world.fleet.instances_of(LaunchId("l-1"))} == set(ids)
    assert world.fleet.instances_of(LaunchId("l-3")) == ()


def test_the_instances_of_another_cluster_are_not_seen(world: World) -> None:
    world.run(replace(world.request, cluster=world.request.cluster + "2"), "token")
    assert world.fleet.instances() == ()
    assert world.fleet.instances_of(world.request.launch_id) == ()


def test_a_listing_holds_more_than_one_page(world: World) -> None:
    for number in range(105):
        world.run(replace(world.request, count=1), f"token-{number}")
    assert len(world.fleet.instances()) == 105


def test_the_console_is_empty_until_something_was_written(world: World) -> None:
    nitro, xen = (
        world.run(replace(world.request, count=1, instance_type=name), name)[0] for name in ("t3.micro", "t2.micro")
    )
    assert world.fleet.console_output(nitro) == ""
    assert world.fleet.console_output(UNKNOWN) == ""
    for instance_id in (nitro, xen):
        world.write_console(instance_id, "[ok] booted\nwörkër")
        assert world.fleet.console_output(instance_id) == "[ok] booted\nwörkër"


def test_an_unknown_image_is_refused(world: World) -> None:
    with pytest.raises(CloudRefused) as refused:
        world.run(replace(world.request, image_id="ami-0123456789abcdef0"), "token")
    assert refused.value.code == "InvalidAMIID.NotFound"
    assert world.fleet.instances() == ()


def test_no_capacity_is_refused_for_that_type_market_and_zone_only(world: World) -> None:
    world.lack(Shortage("t3.micro", Market.SPOT, "eu-west-1b"))
    with pytest.raises(CloudRefused) as refused:
        world.run(replace(world.request, market=Market.SPOT), "a")
    assert refused.value.code == "InsufficientInstanceCapacity"
    for number, change in enumerate(
        ({"market": Market.ON_DEMAND}, {"zone": "eu-west-1a"}, {"instance_type": "t3.small"}),
    ):
        request = replace(world.request, **{"market": Market.SPOT, **change})
        assert len(world.run(request, f"b{number}")) == 3


def test_a_token_that_was_refused_may_be_tried_again(world: World) -> None:
    world.fail_launch(Failure.REFUSED)
    with pytest.raises(CloudRefused) as refused:
        world.run(world.request, "token")
    assert refused.value.code == "UnauthorizedOperation"
    assert len(world.run(world.request, "token")) == 3


def test_ec2_starts_as_many_as_it_has(world: World) -> None:
    world.lack(Shortage("t3.micro", available=2))
    ids = world.run(world.request, "token")
    assert len(ids) == 2
    assert world.run(world.request, "token") == ids


@pytest.mark.parametrize("failure", [Failure.LOST_REQUEST, Failure.LOST_ANSWER, Failure.THROTTLED])
def test_after_an_unknown_outcome_the_same_call_gives_exactly_the_count(world: World, failure: Failure) -> None:
    world.fail_launch(failure)
    with pytest.raises(CloudUnavailable):
        world.run(world.request, "token")
    assert len(world.fleet.instances_of(world.request.launch_id)) == (3 if failure is Failure.LOST_ANSWER else 0)
    ids = world.run(world.request, "token")
    assert {i.instance_id for i in world.fleet.instances()} == set(ids)


def test_a_listing_may_lag_behind(world: World) -> None:
    ids = world.run(world.request, "token")
    world.lag(3600)
    assert world.fleet.instances() == ()
    assert world.fleet.instances_of(world.request.launch_id) == ()
    assert world.run(world.request, "token") == ids
