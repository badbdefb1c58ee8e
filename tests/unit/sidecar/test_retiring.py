"""An idle node ends itself, a busy or needed one never does: protocols 3 and 4."""

from __future__ import annotations

import pytest

from scaler_plugin.coordination.condemned import condemn
from scaler_plugin.coordination.memory_store import Cut
from scaler_plugin.core.health import Vitals
from scaler_plugin.core.model import InstanceState, NodeState, WorkerId
from scaler_plugin.core.retirement import ETCD_AWAY_GRACE_S
from scaler_plugin.sidecar.ending import SHUTDOWN_PATIENCE_S

from .node_world import KEYS, NodeWorld, NoEc2


def test_an_idle_node_retires_after_its_timeout_with_closed_gates_and_says_why(world: NodeWorld) -> None:
    node = world.worker()
    world.run(58)
    assert not node.ending
    world.run(5)
    assert node.ending
    assert node.host.shutdowns == [node.sidecar.report.node.reason]
    assert "idle_timeout of pool cpu is 60 s" in node.host.shutdowns[0]
    assert not node.pull(), "nothing is pulled any more"
    assert world.records()[node.id].state is NodeState.RETIRING
    assert len(world.events("retired")) == 1


def test_a_busy_node_never_retires(world: NodeWorld) -> None:
    node = world.worker()
    world.run(50)
    assert node.pull()
    world.run(3600)
    assert not node.ending
    node.agents[0].task_ended()
    world.run(58)
    assert not node.ending
    world.run(5)
    assert node.ending


def test_a_node_with_one_busy_slot_of_two_stays(world: NodeWorld) -> None:
    node = world.worker(slots=2)
    world.run(5)
    assert node.pull(1)
    world.run(600)
    assert not node.ending


def test_a_pull_that_is_under_way_keeps_the_node_and_what_it_brings_too(world: NodeWorld) -> None:
    node = world.worker()
    world.run(55)
    assert node.agents[0].try_enter_pull()
    node.agents[0].try_enter_pull = lambda: False  # type: ignore[method-assign]  # the agent waits for its answer
    world.run(60)
    assert not node.ending
    assert "asking for a task" in node.sidecar.report.why
    del node.agents[0].try_enter_pull  # type: ignore[method-assign]
    node.agents[0].finish_pull(world.server.create_task())
    world.run(60)
    assert not node.ending


def test_a_task_that_was_pulled_between_look_and_lock_keeps_the_node(world: NodeWorld) -> None:
    node = world.worker()
    world.run(57)
    close = node.gates.close

    def pulled_just_before() -> bool:
        node.gates.close = close  # type: ignore[method-assign]
        assert node.pull()
        return close()

    node.gates.close = pulled_just_before  # type: ignore[method-assign]
    world.run(30)
    assert not node.ending
    node.agents[0].task_ended()
    assert node.pull(), "the gate is open again"


def test_a_backlog_in_a_fresh_view_keeps_an_idle_node_and_an_old_view_does_not(world: NodeWorld) -> None:
    world.configure(max_instances=1)
    node, standby = world.worker(), world.standby()
    world.run(3)
    assert standby.election.leadership or node.election.leadership
    world.enqueue(3)
    world.run(200)
    assert not node.ending
    assert node.sidecar.report.why == "3 tasks wait in its queues."
    leader = standby if standby.election.leadership else node
    for one in (standby, node):
        one.leading.stop()  # nobody leads: the view is nobody's
    assert leader.election.leadership is None
    world.run(10)
    assert node.ending


def test_a_node_that_may_not_go_does_not_ask_etcd_every_second(world: NodeWorld) -> None:
    world.configure(min_instances=1)
    node = world.worker()
    world.run(120)
    assert not node.ending
    reads = 0
    real = node.store.get_prefix

    def counted(prefix: str) -> object:
        nonlocal reads
        reads += prefix == KEYS.nodes
        return real(prefix)

    node.leading.stop()
    node.store.get_prefix = counted  # type: ignore[method-assign, assignment]
    world.run(120)
    assert reads <= 6


@pytest.mark.parametrize("minimum", [0, 1, 2, 3])
def test_when_all_nodes_decide_at_once_the_pools_minimum_stays(world: NodeWorld, minimum: int) -> None:
    world.configure(min_instances=minimum, max_instances=4)
    nodes = [world.worker() for _ in range(4)]
    world.run(400)
    assert sum(not node.ending for node in nodes) == minimum


def test_two_nodes_that_read_the_same_picture_do_not_both_go(world: NodeWorld) -> None:
    world.configure(min_instances=1)
    first, second = world.worker(), world.worker()
    world.run(55)
    transact = first.store.transact

    def overtaken(compare: object, writes: object) -> object:
        if any(getattr(write, "key", "").endswith("/retire") for write in writes):  # type: ignore[attr-defined]
            first.store.transact = transact  # type: ignore[method-assign]
            world.clock.advance(10)
            second.step()
            assert second.ending
        return transact(compare, writes)  # type: ignore[arg-type]

    first.store.transact = overtaken  # type: ignore[method-assign, assignment]
    world.run(120)
    assert second.ending
    assert not first.ending
    assert first.pull(), "its gate is open again"


def test_the_last_node_stays_under_keep_one(world: NodeWorld) -> None:
    world.configure(cluster={"zero": {"mode": "keep_one"}})
    nodes = [world.worker() for _ in range(3)]
    world.run(400)
    assert sum(not node.ending for node in nodes) == 1


def test_a_claim_whose_answer_was_lost_leaves_no_record_that_says_retiring_while_the_node_works(
    world: NodeWorld,
) -> None:
    node = world.worker()
    node.leading.stop()
    world.run(55)
    transact = node.store.transact

    def lost(compare: object, writes: object) -> object:
        if any(getattr(write, "key", "").endswith("/retire") for write in writes):  # type: ignore[attr-defined]
            node.store.transact = transact  # type: ignore[method-assign]
            node.store.fail_next(Cut.AFTER_EFFECT)
        return transact(compare, writes)  # type: ignore[arg-type]

    node.store.transact = lost  # type: ignore[method-assign, assignment]
    while world.records()[node.id].state is NodeState.UP:
        world.run(1)
    assert not node.ending
    assert node.agents[0].try_enter_pull(), "its gate is open again"
    node.agents[0].try_enter_pull = lambda: False  # type: ignore[method-assign]  # the agent waits for its answer
    world.run(2)
    assert not node.ending
    assert world.records()[node.id].state is NodeState.UP


def test_without_etcd_an_idle_node_retires_after_a_grace(world: NodeWorld) -> None:
    world.standby()
    world.run(2)
    node = world.worker()
    world.run(20)
    world.etcd.stop()
    world.run(60 + ETCD_AWAY_GRACE_S - 30)
    assert not node.ending
    world.run(30)
    assert node.ending


def test_without_etcd_the_last_leader_stays(world: NodeWorld) -> None:
    node = world.worker()
    world.run(20)
    assert node.election.leadership is not None
    world.etcd.stop()
    world.run(2000)
    assert not node.ending
    world.etcd.start()
    world.run(20)
    assert node.ending


def test_without_etcd_a_minimum_stays_as_the_nodes_last_saw_each_other(world: NodeWorld) -> None:
    world.configure(min_instances=2, max_instances=5)
    world.standby()
    world.run(2)
    nodes = [world.worker() for _ in range(4)]
    world.run(40)
    world.etcd.stop()
    world.run(1000)
    assert sum(not node.ending for node in nodes) in (2, 3), "two by their order, and nobody who saw too few"


def test_a_shutdown_that_does_nothing_is_followed_by_terminate_instances_after_a_minute(world: NodeWorld) -> None:
    node = world.worker()
    world.run(63)
    assert node.ending
    state = lambda: next(i.state for i in world.fleet.instances() if i.instance_id == node.id)  # noqa: E731
    world.run(SHUTDOWN_PATIENCE_S - 5)
    assert not state().ending
    world.run(10)
    assert state().ending


def test_the_system_is_asked_to_shut_down_again_and_again_until_the_machine_goes(world: NodeWorld) -> None:
    node = world.worker()
    world.fleet_port = NoEc2()
    world.run(63)
    assert len(node.host.shutdowns) == 1
    world.run(4 * SHUTDOWN_PATIENCE_S)
    assert len(node.host.shutdowns) == 5


def test_a_refused_shutdown_terminates_at_once(world: NodeWorld) -> None:
    node = world.worker()
    node.host.works = False
    world.run(63)
    assert next(i.state for i in world.fleet.instances() if i.instance_id == node.id) in (
        InstanceState.SHUTTING_DOWN,
        InstanceState.TERMINATED,
    )


def test_a_machine_that_can_be_ended_in_no_way_keeps_trying_and_keeps_its_gates_closed(world: NodeWorld) -> None:
    node = world.worker()
    node.host.works = False
    world.fleet_port = NoEc2()
    world.run(600)
    assert node.ending
    assert not node.pull()


def test_a_node_that_ends_leaves_clearmls_list_of_workers_and_etcd_when_its_lease_runs_out(world: NodeWorld) -> None:
    node = world.worker()
    worker_id = WorkerId(f"c:cpu:c5.large:{node.id}")
    world.server.register_worker(worker_id)
    world.run(63)
    assert node.id in world.records()
    node.sidecar.stop()
    assert world.records()[node.id].state is NodeState.RETIRING, "without a record it would count as one that comes"
    assert [worker.worker_id for worker in world.server.workers()] == []
    world.clock.advance(60)
    world.etcd.tick()
    assert node.id not in world.records()


def test_a_goodbye_that_nobody_hears_is_no_error(world: NodeWorld) -> None:
    node = world.worker()
    world.run(63)
    world.etcd.stop()
    node.server.fault = type(node.server.fault).UNAVAILABLE_BEFORE
    node.sidecar.stop()


def test_a_restarted_sidecar_takes_up_its_record_and_its_idle_clock(world: NodeWorld) -> None:
    node = world.worker()
    world.run(40)
    node.gates.crash()
    node.start()
    world.run(15)
    assert list(world.records()) == [node.id]
    assert not node.ending
    world.run(10)
    assert node.ending, "idle since before the restart"


def test_a_condemned_instance_that_comes_up_late_ends_without_starting_to_work(world: NodeWorld) -> None:
    standby = world.standby()
    world.run(2)
    node = world.worker()
    assert condemn(standby.election, standby.store, KEYS, node.id)
    node.step()
    assert node.ending
    assert node.id not in world.records()
    assert not node.pull()


def test_a_condemned_instance_with_a_task_finishes_it_first(world: NodeWorld) -> None:
    standby = world.standby()
    world.run(2)
    node = world.worker()
    assert condemn(standby.election, standby.store, KEYS, node.id)
    assert node.pull()
    world.run(100)
    assert not node.ending
    node.agents[0].task_ended()
    world.run(2)
    assert node.ending


def test_the_gates_of_a_condemned_node_that_leaves_anyway_stay_closed_over_its_last_task(world: NodeWorld) -> None:
    standby = world.standby()
    world.run(2)
    node = world.worker()
    assert node.pull()
    assert condemn(standby.election, standby.store, KEYS, node.id)
    node.host.health = Vitals(gpu_fault="0 of its 1 GPUs answer.")
    world.run(3)
    assert not node.ending
    node.agents[0].task_ended()
    assert not node.pull()
    world.run(2)
    assert node.ending


def test_nodes_of_a_pool_that_was_removed_go_when_they_are_idle(world: NodeWorld) -> None:
    node = world.worker()
    world.run(5)
    world.configure(name="other", min_instances=0)
    world.run(700)
    assert node.ending
