"""Drain, protect and lifetime in the simulated world: what people and a node's age ask for, with the real sidecars and leaders."""

from __future__ import annotations

from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.coordination.requests import read_all_requests, request, withdraw_drain
from scaler_plugin.core.model import InstanceId, Node, NodeState, QueueName, TaskStatus
from scaler_plugin.core.requests import DrainRequest, ProtectRequest
from scaler_plugin.simulation.world import World

from .scene import LiveScene

QUEUE = QueueName("training")


def config(more: str = "", least: int = 0, most: int = 4) -> str:
    return f"""
cluster: simulated
poll_interval: 2s
leader_ttl: 10s
pools:
  - name: gpu
    queues: [{QUEUE}]
    instance_types: [g5.xlarge]
    ami: ami-1234
    min_instances: {least}
    max_instances: {most}
    idle_timeout: 2m
    startup_timeout: 5m
{more}"""


class Scene(LiveScene):
    @property
    def nodes(self) -> list[Node]:
        return [node for node in read_nodes(self.store, self.world.keys) if node.pool == "gpu"]

    def up(self) -> list[InstanceId]:
        return [node.instance_id for node in self.nodes if node.state is NodeState.UP]

    def drain(self, instance_id: InstanceId) -> None:
        asked = DrainRequest(instance_id, self.world.clock.now(), "ann@host")
        request(self.store, self.world.keys, asked)


def test_a_drained_node_finishes_its_task_takes_no_other_and_ends_and_its_request_goes_with_it() -> None:
    scene = Scene(config())
    first = scene.world.submit(QUEUE, 600.0)
    scene.until(lambda: any(node.busy for node in scene.nodes), 120)
    [node] = scene.nodes
    scene.drain(node.instance_id)
    assert scene.until(lambda: scene.nodes[0].state is NodeState.DRAINING, 20) <= 7.0
    assert scene.nodes[0].reason == "Somebody asked it to drain: ann@host."
    second = scene.world.submit(QUEUE, 60.0)
    scene.until(lambda: scene.world.server.task(second).status is TaskStatus.COMPLETED, 300)
    assert scene.world.server.task(first).status is TaskStatus.IN_PROGRESS
    scene.until(lambda: scene.world.server.task(first).status is TaskStatus.COMPLETED, 700)
    assert scene.until(lambda: not scene.world.machines[node.instance_id].on, 60) < 30
    assert scene.world.server.task(first).requeues == 0
    scene.until(lambda: not read_all_requests(scene.store, scene.world.keys), 900)


def test_a_drain_that_is_taken_back_opens_the_gate_again() -> None:
    scene = Scene(config())
    scene.world.submit(QUEUE, 300.0)
    scene.until(lambda: any(node.busy for node in scene.nodes), 120)
    [node] = scene.nodes
    scene.drain(node.instance_id)
    scene.until(lambda: scene.nodes[0].state is NodeState.DRAINING, 20)
    withdraw_drain(scene.store, scene.world.keys, node.instance_id)
    scene.until(lambda: scene.nodes[0].state is NodeState.UP, 20)
    second = scene.world.submit(QUEUE, 10.0)
    scene.until(lambda: scene.world.server.task(second).status is TaskStatus.COMPLETED, 400)


def test_a_drain_replaces_a_node_that_its_pools_minimum_needs() -> None:
    scene = Scene(config(least=1))
    scene.until(lambda: len(scene.up()) == 1, 120)
    [old] = scene.up()
    scene.drain(old)
    scene.until(lambda: not scene.world.machines[old].on and len(scene.up()) == 1, 120)


def test_a_protected_node_stays_past_its_idle_timeout_until_the_protection_ends() -> None:
    scene = Scene(config())
    scene.world.submit(QUEUE, 60.0)
    scene.until(lambda: any(node.busy for node in scene.nodes), 120)
    [node] = scene.nodes
    until = scene.world.clock.now() + 1800.0
    request(scene.store, scene.world.keys, ProtectRequest(node.instance_id, 0.0, until, "debugging"))
    scene.until(lambda: "debugging" in scene.nodes[0].protected, 20)
    scene.world.run_until(scene.now + 1700)
    assert scene.up() == [node.instance_id]
    assert scene.until(lambda: not scene.world.living_instances(), 300) >= 60
    scene.until(lambda: not read_all_requests(scene.store, scene.world.keys), 60)


def test_a_protected_node_is_drained_all_the_same() -> None:
    scene = Scene(config(least=1))
    scene.until(lambda: len(scene.up()) == 1, 120)
    [node] = scene.up()
    request(scene.store, scene.world.keys, ProtectRequest(node, scene.world.clock.now()))
    scene.until(lambda: bool(scene.nodes[0].protected), 20)
    scene.drain(node)
    scene.until(lambda: not scene.world.machines[node].on, 60)


def test_without_etcd_a_node_that_was_protected_stays_protected() -> None:
    scene = Scene(config())
    scene.world.submit(QUEUE, 10.0)
    scene.until(lambda: any(node.busy for node in scene.nodes), 120)
    [node] = scene.nodes
    request(scene.store, scene.world.keys, ProtectRequest(node.instance_id, scene.world.clock.now()))
    scene.until(lambda: bool(scene.nodes[0].protected), 20)
    scene.world.store.stop()
    scene.world.run_until(scene.now + 3600)
    assert scene.world.machines[node.instance_id].on


def test_requests_for_nodes_that_never_were_are_removed() -> None:
    scene = Scene(config())
    scene.drain(InstanceId("i-unknown"))
    scene.world.run_until(scene.now + 30)
    assert read_all_requests(scene.store, scene.world.keys)
    scene.until(lambda: not read_all_requests(scene.store, scene.world.keys), 600)


def test_nodes_that_come_of_age_are_replaced_first_one_at_a_time_and_the_minimum_holds() -> None:
    scene = Scene(config("    max_lifetime: 1h\n", least=3, most=5))
    scene.until(lambda: len(scene.up()) == 3, 120)
    old = set(scene.up())
    scene.world.run_until(scene.now + 3500)
    assert set(scene.up()) == old
    most_leaving, least_up = 0, 3

    def look(_world: World) -> None:
        nonlocal most_leaving, least_up
        nodes = scene.nodes
        living = [node for node in nodes if node.state is not NodeState.RETIRING]
        most_leaving = max(most_leaving, sum(1 for node in nodes if node.leaving))
        least_up = min(least_up, len(living))

    scene.world.watchers.append(look)
    scene.until(lambda: not old & set(scene.up()), 1800)
    assert most_leaving == 1
    assert least_up >= 3, "a node went before its replacement was there"


def test_a_pool_at_its_maximum_renews_its_nodes_too() -> None:
    scene = Scene(config("    max_lifetime: 1h\n", least=1, most=1))
    scene.until(lambda: len(scene.up()) == 1, 120)
    [old] = scene.up()
    scene.until(lambda: not scene.world.machines[old].on, 3600 + 400)
    scene.until(lambda: len(scene.up()) == 1, 120)


def test_a_task_that_runs_when_its_node_comes_of_age_is_not_disturbed() -> None:
    scene = Scene(config("    max_lifetime: 1h\n"))
    task = scene.world.submit(QUEUE, 3 * 3600.0)
    scene.until(lambda: scene.world.server.task(task).status is TaskStatus.COMPLETED, 4 * 3600)
    assert scene.world.server.task(task).requeues == 0
    assert not scene.world.broken
    assert scene.until(lambda: not scene.world.living_instances(), 60) < 30
