"""An ailing machine takes no further task, finishes the one it has, and is replaced; a check that hangs holds nobody up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scaler_plugin.core.health import CRASH_LOOP_DEATHS, DiskSpace, Vitals, Xid
from scaler_plugin.core.model import NodeState, Slot, SlotState
from scaler_plugin.sidecar.health import DOCKER_PATIENCE_S, CrashWatch
from scaler_plugin.sidecar.ports import HookOutcome

from .node_world import NodeWorld, OneNode
from .scripted_hooks import HANGS

FULL = Vitals(disks=(DiskSpace("/", 1024**3),))
NO_DOCKER = Vitals(docker_fault="Its docker does not answer.")
CHECK: dict[str, Any] = {"name": "nfs", "command": "check-nfs", "every": "60s", "timeout": "10s"}


def test_a_full_disk_closes_the_gate_lets_the_task_finish_and_ends_the_node(world: NodeWorld) -> None:
    node = world.worker()
    world.run(5)
    assert node.pull()
    node.host.health = FULL
    world.run(5)
    assert world.records()[node.id].state is NodeState.DRAINING
    assert "nearly full" in world.records()[node.id].reason
    world.run(600)
    assert not node.ending, "a running task was disturbed"
    node.agents[0].task_ended()
    world.run(2)
    assert node.ending
    assert not node.pull()
    assert "1.0 GiB free at /" in node.host.shutdowns[0]


def test_a_disk_that_has_room_again_before_the_task_ends_keeps_the_node(world: NodeWorld) -> None:
    node = world.worker()
    world.run(5)
    assert node.pull()
    node.host.health = FULL
    world.run(5)
    node.host.health = Vitals(disks=(DiskSpace("/", 50 * 1024**3),))
    node.agents[0].task_ended()
    world.run(5)
    assert not node.ending
    assert world.records()[node.id].state is NodeState.UP
    assert node.pull()


def test_the_pools_own_threshold_counts(world: NodeWorld) -> None:
    world.configure(min_free_disk_gb=100)
    node = world.worker()
    node.host.health = Vitals(disks=(DiskSpace("/", 50 * 1024**3),))
    world.run(5)
    assert node.ending


@pytest.mark.parametrize(
    ("vitals", "words"),
    [
        (Vitals(gpu_fault="3 of its 4 GPUs answer."), "3 of its 4"),
        (Vitals(xids=(Xid(79, "0000:00:1e"),)), "fallen off the bus"),
        (Vitals(stuck_on="GPUs"), "did not answer"),
    ],
)
def test_a_lost_gpu_ends_an_idle_node_at_once(world: NodeWorld, vitals: Vitals, words: str) -> None:
    node = world.worker()
    world.run(5)
    node.host.health = vitals
    world.run(2)
    assert node.ending
    assert words in node.host.shutdowns[0]


def test_gpu_errors_that_a_users_program_makes_are_no_ailment(world: NodeWorld) -> None:
    node = world.worker()
    node.host.health = Vitals(xids=tuple(Xid(number, "0000:00:1e") for number in (13, 31, 43, 45, 63, 94)))
    world.run(10)
    assert world.records()[node.id].state is NodeState.UP


def test_what_cannot_be_looked_at_is_told_once_and_is_no_ailment(world: NodeWorld) -> None:
    node = world.worker()
    node.host.health = Vitals(unseen="The kernel's log cannot be read.")
    world.run(5)
    assert node.unseen == ["The kernel's log cannot be read."]
    assert node.pull()


def test_docker_may_restart_but_not_stay_away(world: NodeWorld) -> None:
    node = world.worker()
    world.run(5)
    assert node.pull()
    node.host.health = NO_DOCKER
    world.run(DOCKER_PATIENCE_S - 5)
    node.host.health = Vitals()
    world.run(5)
    node.host.health = NO_DOCKER
    world.run(DOCKER_PATIENCE_S - 5)
    assert world.records()[node.id].state is NodeState.UP
    world.run(10)
    assert world.records()[node.id].state is NodeState.DRAINING


def crash(node: OneNode, world: NodeWorld) -> None:
    agents, node.agents = node.agents, []
    agents[0].crash()
    world.run(3)
    node.agents = agents
    world.run(20)


def test_an_agent_that_dies_again_and_again_is_a_crash_loop(world: NodeWorld) -> None:
    world.configure(idle_timeout="never")
    node = world.worker()
    world.run(5)
    for _ in range(CRASH_LOOP_DEATHS - 1):
        crash(node, world)
    assert world.records()[node.id].state is NodeState.UP
    crash(node, world)
    assert node.ending
    assert "died 3 times" in node.host.shutdowns[0]


def test_a_record_that_is_spoiled_again_and_again_is_no_death_of_the_agent(world: NodeWorld) -> None:
    worker = world.worker()
    world.run(2)
    watch, node = CrashWatch(), world.records()[worker.id]
    for second in range(20):
        spoiled = Slot(0, SlotState.DOWN, 0.0, problem="state.json is a pipe.")
        slot = spoiled if second % 2 else Slot(0, SlotState.IDLE, 0.0)
        assert watch.look(replace(node, slots=(slot,)), float(second)) is None


def test_deaths_over_hours_are_no_crash_loop(world: NodeWorld) -> None:
    world.configure(idle_timeout="never")
    node = world.worker()
    for _ in range(CRASH_LOOP_DEATHS + 2):
        world.run(600)
        crash(node, world)
    assert not node.ending


def test_a_check_that_fails_ends_the_node_with_the_end_of_its_output(world: NodeWorld) -> None:
    world.configure(checks=[CHECK], idle_timeout="never")
    node = world.worker()
    world.run(5)
    assert world.records()[node.id].state is NodeState.UP
    node.hooks.outcomes["check-nfs"] = HookOutcome(2, "trying\nmount.nfs: Connection timed out\n")
    world.run(61)
    assert node.ending
    assert "The check nfs ended with exit code 2: mount.nfs: Connection timed out" in node.host.shutdowns[0]


def test_what_a_check_prints_comes_into_etcd_without_its_secrets(world: NodeWorld) -> None:
    world.configure(checks=[CHECK], idle_timeout="never")
    node = world.worker()
    world.run(5)
    node.hooks.outcomes["check-nfs"] = HookOutcome(2, f"mount: password={'x' * 150}hunter2 {'y' * 100} refused\n")
    world.run(70)
    assert "refused" in node.host.shutdowns[0]
    assert "hunter2" not in node.host.shutdowns[0]


def test_checks_run_as_often_as_they_should(world: NodeWorld) -> None:
    world.configure(checks=[CHECK], idle_timeout="never")
    node = world.worker()
    world.run(600)
    assert 10 <= node.hooks.started["check-nfs"] <= 11


def test_a_check_that_hangs_is_killed_counts_as_failed_and_holds_nobody_up(world: NodeWorld) -> None:
    world.configure(checks=[CHECK])
    node = world.worker()
    node.hooks.outcomes["check-nfs"] = HANGS
    world.run(8)
    assert world.records()[node.id].state is NodeState.UP
    world.run(8)
    assert node.hooks.runs[0].killed
    assert node.ending
    assert "did not end within its timeout of 10 s" in node.host.shutdowns[0]


def test_a_check_that_no_kill_ends_is_not_started_again_until_it_is_gone(world: NodeWorld) -> None:
    world.configure(checks=[CHECK])
    node = world.worker()
    world.run(5)
    assert node.pull()
    node.hooks.outcomes["check-nfs"], node.hooks.deathless = HANGS, True
    world.run(3600)
    assert node.hooks.started["check-nfs"] == 2, "the one that ended well, and the one that hangs"
    assert world.records()[node.id].state is NodeState.DRAINING
    node.hooks.runs[-1].deathless = False
    del node.hooks.outcomes["check-nfs"]
    world.run(10)
    assert node.hooks.started["check-nfs"] == 3
    assert world.records()[node.id].state is NodeState.UP


def test_a_hanging_check_does_not_keep_an_idle_node_from_retiring(world: NodeWorld) -> None:
    world.configure(checks=[{**CHECK, "timeout": "10m"}])
    node = world.worker()
    node.hooks.outcomes["check-nfs"] = HANGS
    world.run(70)
    assert node.ending
    assert "idle" in node.host.shutdowns[0].lower()


@pytest.mark.parametrize("outcome", [HookOutcome(127, "sh: check-nfs: not found"), HookOutcome(None, "no such user")])
def test_a_check_that_cannot_be_run_says_so_once_and_ends_no_node(world: NodeWorld, outcome: HookOutcome) -> None:
    world.configure(checks=[CHECK], idle_timeout="never")
    node = world.worker()
    node.hooks.outcomes["check-nfs"] = outcome
    world.run(300)
    assert world.records()[node.id].state is NodeState.UP
    (why,) = node.unusable_checks
    assert "can't be run" in why
    assert outcome.output in why


def test_a_check_that_is_taken_out_of_the_configuration_no_longer_counts(world: NodeWorld) -> None:
    world.configure(checks=[CHECK], idle_timeout="never")
    node = world.worker()
    world.run(5)
    assert node.pull()
    node.hooks.outcomes["check-nfs"] = HookOutcome(1)
    world.run(61)
    assert world.records()[node.id].state is NodeState.DRAINING
    world.configure(idle_timeout="never")
    world.run(5)
    assert world.records()[node.id].state is NodeState.UP


def test_a_node_that_is_unfit_before_any_task_ran_on_it_says_so_until_its_lease_runs_out(world: NodeWorld) -> None:
    node = world.worker()
    node.host.health = FULL
    world.run(2)
    assert node.ending
    node.sidecar.stop()
    assert world.records()[node.id].useless
    world.clock.advance(60)
    world.etcd.tick()
    assert node.id not in world.records()


def test_a_node_that_has_run_a_task_is_not_useless_whatever_becomes_of_it(world: NodeWorld) -> None:
    node = world.worker()
    world.run(5)
    assert node.pull()
    world.run(5)
    assert world.records()[node.id].worked
    node.agents[0].task_ended()
    node.host.health = FULL
    world.run(5)
    assert node.ending
    assert not world.records()[node.id].useless
    node.sidecar.stop()
    assert not world.records()[node.id].useless


def test_a_node_whose_agent_never_came_up_is_useless_and_one_that_was_idle_for_long_is_not(world: NodeWorld) -> None:
    silent, idle = world.worker(), world.worker()
    silent.agents = []
    world.run(30)
    assert not world.records()[silent.id].unfit
    world.run(3600)
    assert silent.ending
    assert idle.ending
    assert world.records()[silent.id].useless
    assert not world.records()[idle.id].useless
