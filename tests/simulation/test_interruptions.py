"""The real sidecars and leaders when EC2 takes instances: what becomes of the tasks, whoever dies or does not answer meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaler_plugin.clearml_server.memory_client import Fault
from scaler_plugin.cloud.metadata import ScheduledEvent
from scaler_plugin.coordination.handbacks import read_handbacks
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.core.model import NodeState, QueueName, TaskId, TaskStatus
from scaler_plugin.simulation.machine import SimMachine

from .scene import LiveScene

QUEUE = QueueName("training")
LONG_S = 1800.0


def config(hook: bool = True, slots: int = 1, more: str = "") -> str:
    script = "\n    on_interruption: 'save the state'\n    on_interruption_timeout: 40s" if hook else ""
    return f"""
cluster: simulated
poll_interval: 2s
leader_ttl: 10s
pools:
  - name: gpu
    queues: [{QUEUE}]
    instance_types: [g5.xlarge]
    ami: ami-1234
    market: spot
    max_instances: 4
    slots_per_node: {slots}
    idle_timeout: 2m
    startup_timeout: 5m{script}{more}
"""


class Scene(LiveScene):
    """A world in which tasks run; ``node`` is the machine with the first one."""

    def __init__(self, text: str, tasks: int = 1, seed: int = 1) -> None:
        super().__init__(text, seed)
        self.tasks = [self.world.submit(QUEUE, LONG_S) for _ in range(tasks)]
        self.until(lambda: all(self.status(t) is TaskStatus.IN_PROGRESS for t in self.tasks), 300)
        self.world.run_until(self.now + 60)
        self.node = next(machine for machine in self.world.machines.values() if machine.busy)

    def state(self, machine: SimMachine) -> NodeState | None:
        nodes = read_nodes(self.world.store.client("test"), self.world.keys)
        return next((n.state for n in nodes if n.instance_id == machine.identity.instance_id), None)

    def queued_again(self, task: TaskId) -> bool:
        return self.world.server.task(task).requeues == 1

    def gate_closed(self) -> bool:
        return all(slot.closer is not None for slot in self.node.slots.slots)

    def finish(self) -> None:
        """Everything that was enqueued is done, once at a time, and nothing is left."""
        self.until(lambda: all(self.status(t) is TaskStatus.COMPLETED for t in self.tasks), 3 * LONG_S)
        self.until(lambda: not self.world.living_instances(), 1800)
        assert not self.world.broken
        assert not read_handbacks(self.world.store.client("test"), self.world.keys)


def test_a_spot_notice_closes_the_gate_lets_the_task_save_its_state_and_puts_it_back_before_the_node_ends() -> None:
    scene = Scene(config())
    [task] = scene.tasks
    scene.node.hooks.length_s = 20.0
    scene.node.announce_interruption()
    assert scene.until(scene.gate_closed, 10) <= 6.0
    assert scene.state(scene.node) is NodeState.INTERRUPTED
    scene.until(lambda: "hook_ended" in scene.kinds(), 40)
    assert scene.until(lambda: scene.queued_again(task), 30) <= 15.0
    assert scene.node.on, "it goes back while the node still lives"
    [told] = scene.node.hooks.runs
    assert (told["SCALER_TASK_ID"], told["SCALER_ACTION"]) == (task, "terminate")
    scene.until(lambda: not scene.node.on, 15)
    scene.finish()
    assert "interrupted" in scene.kinds()
    assert "task_handed_back" in scene.kinds()


def test_a_replacement_is_launched_while_the_interrupted_node_still_lives() -> None:
    scene = Scene(config())
    scene.node.hooks.length_s = 40.0
    scene.node.announce_interruption()
    scene.until(scene.gate_closed, 10)
    scene.world.submit(QUEUE, 10.0)
    launched = scene.world.fleet.launched
    scene.until(lambda: scene.world.fleet.launched > launched, 10)
    assert scene.node.busy


@pytest.mark.parametrize(("length_s", "exit_code"), [(float("inf"), 0), (1.0, 3), (0.0, None)])
def test_a_hook_that_hangs_fails_or_cannot_start_costs_no_more_than_its_time(
    length_s: float, exit_code: int | None
) -> None:
    scene = Scene(config())
    [task] = scene.tasks
    scene.node.hooks.length_s, scene.node.hooks.exit_code = length_s, exit_code
    scene.node.announce_interruption()
    scene.until(lambda: scene.queued_again(task), 70)
    assert "hook_failed" in scene.kinds()
    assert scene.node.hooks.killed == (1 if length_s == float("inf") else 0)
    scene.finish()


def test_the_tasks_own_abort_callback_gets_its_time_and_the_task_ends_itself() -> None:
    scene = Scene(config(hook=False))
    [task] = scene.tasks
    server = scene.world.server
    server._keep(replace(server.task(task), abort_callback_s=45.0))
    agent = scene.node.agents[0]
    scene.node.announce_interruption()
    scene.until(lambda: scene.queued_again(task), 70)
    assert scene.node.agents[0] is agent, "nobody had to kill the agent"
    scene.finish()


def test_an_agent_that_does_not_react_is_killed_with_its_task_before_that_goes_back() -> None:
    scene = Scene(config(hook=False))
    [task] = scene.tasks
    agent = scene.node.agents[0]
    for process in (agent.process, agent.child):
        assert process is not None
        process.paused_until = scene.now + 3600
    scene.node.announce_interruption()
    scene.until(lambda: scene.queued_again(task), 25)
    assert not agent.process.alive
    assert agent.child is not None
    assert not agent.child.alive
    scene.finish()


@pytest.mark.parametrize("kill_after_s", [2.0, 6.0, 9.0, 12.0, 14.0, 16.0, 17.0, 18.0, 19.0, 20.0, 22.0])
@pytest.mark.parametrize("hook", [True, False])
def test_a_sidecar_killed_at_any_moment_of_an_interruption_loses_no_task(kill_after_s: float, hook: bool) -> None:
    scene = Scene(config(hook), seed=int(kill_after_s * 10))
    scene.node.hooks.length_s = 8.0
    scene.node.announce_interruption()
    scene.world.scheduler.call_later(kill_after_s, scene.node.kill_sidecar)
    scene.finish()
    assert all(scene.world.server.task(task).requeues == 1 for task in scene.tasks)


@pytest.mark.parametrize("lost_after_s", [0.25 * n for n in range(12)])
def test_a_node_that_is_gone_before_it_kept_its_promise_has_it_kept_by_the_leader(lost_after_s: float) -> None:
    scene = Scene(config(hook=False))
    [task] = scene.tasks
    scene.node.announce_interruption()
    scene.until(lambda: bool(read_handbacks(scene.world.store.client("test"), scene.world.keys)), 10)
    scene.world.scheduler.call_later(lost_after_s, lambda: scene.world.fleet.interrupt(scene.node.identity.instance_id))
    scene.until(lambda: scene.queued_again(task), 60)
    scene.finish()


def test_without_etcd_the_task_is_ended_without_asking_and_goes_back_all_the_same() -> None:
    scene = Scene(config())
    [task] = scene.tasks
    scene.world.store.stop()
    scene.node.announce_interruption()
    scene.until(lambda: scene.queued_again(task), 60)
    scene.world.store.start()
    scene.finish()


def test_without_clearml_the_leader_puts_the_task_back_once_it_can() -> None:
    scene = Scene(config())
    scene.node.server.fault = Fault.UNAVAILABLE_BEFORE
    scene.node.announce_interruption()
    scene.until(lambda: not scene.node.on, 130)
    scene.finish()
    assert "rescued" in scene.kinds()


def test_a_task_that_somebody_aborts_is_not_put_back() -> None:
    scene = Scene(config())
    [task] = scene.tasks
    scene.node.announce_interruption()
    scene.until(scene.gate_closed, 10)
    scene.world.server.stop(task)
    scene.until(lambda: not scene.node.on, 60)
    scene.world.run_until(scene.now + 300)
    assert scene.status(task) is TaskStatus.STOPPED


def test_a_task_that_was_put_back_too_often_is_marked_as_failed_with_the_reason() -> None:
    scene = Scene(config())
    [task] = scene.tasks
    scene.world.server.set_requeues(task, 3)
    scene.node.announce_interruption()
    scene.until(lambda: scene.status(task) is TaskStatus.FAILED, 60)
    assert "put back 3 times already" in scene.world.server.task(task).status_message


def test_rebalance_advice_lets_the_task_finish_and_then_ends_the_node() -> None:
    scene = Scene(config())
    [task] = scene.tasks
    scene.node.announce(replace(scene.node.metadata.facts, rebalance_recommended_at=scene.node.clock.now()))
    scene.until(scene.gate_closed, 10)
    assert scene.state(scene.node) is NodeState.DRAINING
    second = scene.world.submit(QUEUE, 30.0)
    scene.until(lambda: scene.status(second) is TaskStatus.COMPLETED, 300)
    assert scene.node.busy, "the first task still runs where it ran"
    scene.until(lambda: scene.status(task) is TaskStatus.COMPLETED, LONG_S + 60)
    assert scene.until(lambda: not scene.node.on, 60) < 30
    assert scene.world.server.task(task).requeues == 0


def test_maintenance_days_ahead_drains_and_stops_a_task_only_in_the_last_minutes() -> None:
    scene = Scene(config())
    [task] = scene.tasks
    at = scene.node.clock.now() + 900.0
    event = ScheduledEvent("event-1", "instance-retirement", "active", at)
    scene.node.announce(replace(scene.node.metadata.facts, scheduled_events=(event,)))
    scene.until(scene.gate_closed, 10)
    assert scene.state(scene.node) is NodeState.DRAINING
    scene.until(lambda: scene.state(scene.node) is NodeState.INTERRUPTED, 700)
    assert at - scene.node.clock.now() <= 300
    scene.until(lambda: scene.queued_again(task), 60)
    scene.finish()


def test_maintenance_that_is_called_off_opens_the_gate_again() -> None:
    scene = Scene(config())
    event = ScheduledEvent("event-1", "system-reboot", "active", scene.node.clock.now() + 86_400)
    scene.node.announce(replace(scene.node.metadata.facts, scheduled_events=(event,)))
    scene.until(scene.gate_closed, 10)
    scene.node.announce(replace(scene.node.metadata.facts, scheduled_events=(replace(event, state="canceled"),)))
    scene.until(lambda: scene.state(scene.node) is NodeState.UP, 10)
    assert not scene.gate_closed()
    scene.finish()


def test_every_slot_of_an_interrupted_node_gets_its_hook_and_its_task_back() -> None:
    scene = Scene(config(slots=3), tasks=3)
    scene.node.announce_interruption()
    scene.until(lambda: all(scene.queued_again(task) for task in scene.tasks), 60)
    assert {run["SCALER_SLOT"] for run in scene.node.hooks.runs} == {"0", "1", "2"}
    scene.finish()


def test_a_node_with_several_slots_retires_only_when_all_are_idle() -> None:
    scene = Scene(config(slots=2), tasks=2)
    short = scene.tasks[0]
    long = scene.world.submit(QUEUE, 2 * LONG_S)
    scene.until(lambda: scene.status(short) is TaskStatus.COMPLETED, LONG_S + 60)
    scene.until(lambda: scene.status(long) is TaskStatus.COMPLETED, 4 * LONG_S)
    assert not scene.world.broken
    scene.until(lambda: not scene.world.living_instances(), 900)


def test_a_sidecar_killed_while_its_machine_shuts_down_lets_no_agent_pull() -> None:
    scene = Scene(config())
    [task] = scene.tasks
    scene.node.announce_interruption()
    scene.until(lambda: scene.queued_again(task), 60)
    scene.until(lambda: all(slot.sealed for slot in scene.node.slots.slots), 10)
    scene.node.kill_sidecar()
    scene.finish()
    assert sum(1 for note in scene.world.notes if f"{scene.node.identity.instance_id} runs task" in note) == 1
