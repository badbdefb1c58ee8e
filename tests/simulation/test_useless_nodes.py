"""A pool whose machines register and then turn out to be unfit is not paid for again and again."""

from __future__ import annotations

from scaler_plugin.coordination.start_records import read_start_records
from scaler_plugin.core.breaker import FIRST_PAUSE_S, TRIP_AFTER
from scaler_plugin.core.model import TaskStatus

from .test_requests import QUEUE, Scene, config

CHECK = "    checks: [{name: nfs, command: check-nfs, every: 1m, timeout: 10s}]"


def test_a_check_that_fails_only_after_registration_pauses_the_pool_and_one_machine_at_a_time_is_tried() -> None:
    scene = Scene(config(CHECK, least=2))
    scene.world.check_exit_code = 1
    scene.until(lambda: "pool_paused" in scene.kinds(), 600)
    at_pause = scene.world.fleet.launched
    assert at_pause <= TRIP_AFTER + 1
    scene.world.run_until(scene.now + FIRST_PAUSE_S + 180)
    assert scene.world.fleet.launched == at_pause + 1, "a single one is tried"
    (record,) = read_start_records(scene.store, scene.world.keys)
    assert "The check nfs ended with exit code 1" in record.what
    assert "pool_resumed" not in scene.kinds(), "that a node registers proves nothing here"

    scene.world.check_exit_code = 0
    scene.until(lambda: bool(scene.up()), 1800)
    scene.world.run_until(scene.now + 120)
    assert len(scene.up()) == 1, "it has not worked yet"
    task = scene.world.submit(QUEUE, 60.0)
    scene.until(lambda: len(scene.up()) == 2, 120)
    assert "pool_resumed" in scene.kinds()
    assert read_start_records(scene.store, scene.world.keys) == ()
    scene.until(lambda: scene.world.server.task(task).status is TaskStatus.COMPLETED, 120)


def test_machines_that_break_after_they_have_worked_are_replaced_at_once() -> None:
    scene = Scene(config(CHECK))
    for _ in range(TRIP_AFTER + 1):
        scene.world.submit(QUEUE, 90.0)
        scene.until(lambda: any(node.busy for node in scene.nodes), 60)
        machine = scene.world.machines[scene.nodes[0].instance_id]
        machine.checks.exit_code = 1
        scene.until(lambda machine=machine: not machine.on, 180)  # type: ignore[misc]
    assert scene.world.fleet.launched == TRIP_AFTER + 1
    assert read_start_records(scene.store, scene.world.keys) == ()
    assert "pool_paused" not in scene.kinds()
