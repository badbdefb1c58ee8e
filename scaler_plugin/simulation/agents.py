"""The stock agent of the simulated world: polls its queues through the gate, runs tasks, reports, and can be killed.

It does what clearml-agent 3.0 does towards the server (see the recordings in ``tests/recordings/clearml-api``): polls every
5 s, reports every 30 s, starts a task after the pull as a call of its own, and runs it in a child that outlives the agent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from scaler_plugin.agent.memory_gates import MemoryAgentSlot, MemorySlots
from scaler_plugin.clearml_server.memory_client import MemoryTaskClient
from scaler_plugin.core.model import InstanceId, QueueName, TaskId, TaskStatus, WorkerId
from scaler_plugin.errors import TaskServerError, TaskServerRefused
from scaler_plugin.simulation.scheduler import Scheduler, SimProcess

POLL_S = 5.0
REPORT_S = 30.0


class Stage(Protocol):
    """The world as an agent's tasks need it."""

    def duration_s(self, task_id: TaskId) -> float: ...

    def task_begins(self, task_id: TaskId, on: InstanceId) -> None: ...

    def task_ends(self, task_id: TaskId) -> None: ...


class SimAgent:
    """One agent process on one slot. ``changed`` tells the sidecar that the slot's state has changed."""

    def __init__(
        self,
        scheduler: Scheduler,
        machine: MemorySlots,
        slot: int,
        worker_id: WorkerId,
        queues: tuple[QueueName, ...],
        server: MemoryTaskClient,
        stage: Stage,
        on: InstanceId,
        changed: Callable[[], None],
        poll_s: float = POLL_S,
    ) -> None:
        self.process = SimProcess(f"agent {worker_id}")
        self.child: SimProcess | None = None
        self.task_id: TaskId | None = None
        self._scheduler = scheduler
        self._clock = scheduler.clock
        self._slot = MemoryAgentSlot(machine, slot)
        self._worker_id = worker_id
        self._queues = queues
        self._server = server
        self._stage = stage
        self._on = on
        self._changed = changed
        self._poll_s = poll_s
        self._reported_at = float("-inf")
        self._child_task = TaskId("")
        self._child_done = False
        self._was_aborted = False
        self._child_step_s = REPORT_S
        self._wake: Callable[[], None] = lambda: None
        self._wake_child: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._wake = self._scheduler.spawn(self.process, self._main)

    def kill(self) -> None:
        """SIGKILL: the child of a running task lives on, and nobody will complete the task."""
        self.process.kill()
        self._slot.crash(task_survives=self.child is not None and self.child.alive)

    def kill_with_task(self) -> None:
        """SIGKILL to the agent and to everything of its task."""
        self.process.kill()
        self.kill_child()
        self._slot.crash()
        self.task_id = None

    def look_often(self) -> None:
        """From now on see within seconds that somebody stops the task, as real agents always do; sleeping longer is cheaper."""
        self._child_step_s = POLL_S
        self._wake_child()

    def terminate(self) -> None:
        """The machine shuts down: everything ends. An idle agent says goodbye to the server, as it does on SIGTERM."""
        self.process.kill()
        self.kill_child()
        if self.task_id is None:
            try:
                self._server.unregister_worker(self._worker_id)
            except TaskServerError:
                return

    def kill_child(self) -> None:
        if self.child is not None and self.child.alive:
            self.child.kill()
            self._stage.task_ends(self._child_task)

    def _main(self) -> None:
        self._register()
        while True:
            task_id = self._pull()
            if task_id is not None:
                self._run(task_id)
            else:
                self._report()
                self._scheduler.sleep(self._poll_s)

    def _register(self) -> None:
        while True:
            try:
                self._server.register_worker(self._worker_id, self._queues)
            except TaskServerError:
                self._scheduler.sleep(POLL_S)
            else:
                return

    def _pull(self) -> TaskId | None:
        if not self._slot.try_enter_pull():
            self._changed()
            return None
        task_id, queue = None, None
        try:
            for queue in self._queues:
                task_id = self._server.get_next_task(queue)
                if task_id is not None:
                    break
        except TaskServerError:
            task_id = None
        self._slot.finish_pull(task_id, queue if task_id is not None else None)
        self.task_id = task_id
        self._changed()
        return task_id

    def _run(self, task_id: TaskId) -> None:
        if self._begin(task_id):
            self._run_child(task_id)
            self._finish(task_id)
        self.task_id = None
        self._slot.task_ended()
        self._changed()

    def _begin(self, task_id: TaskId) -> bool:
        """Mark the task as started; the agent tries for as long as the server does not answer."""
        while True:
            try:
                self._server.started(task_id, force=True)
                self._server.status_report(self._worker_id, task_id)
            except TaskServerRefused:
                return False
            except TaskServerError:
                self._scheduler.sleep(POLL_S)
            else:
                return True

    def _run_child(self, task_id: TaskId) -> None:
        self.child = SimProcess(f"task {task_id}")
        self._child_task = task_id
        self._stage.task_begins(task_id, self._on)
        self._child_done = False
        self._was_aborted = False
        self._wake_child = self._scheduler.spawn(
            self.child, lambda: self._child_main(task_id, self._stage.duration_s(task_id))
        )
        while not self._child_done:
            self._report(task_id)
            self._scheduler.sleep(REPORT_S, pokable=True)
        self.child = None

    def _child_main(self, task_id: TaskId, duration_s: float) -> None:
        ends_at = self._clock.monotonic() + duration_s
        while (left := ends_at - self._clock.monotonic()) > 0:
            if self._aborted(task_id):
                self._was_aborted = True
                break
            self._scheduler.sleep(min(left, self._child_step_s), pokable=True)
        self._child_done = True
        self._child_ended()
        self._wake()

    def _aborted(self, task_id: TaskId) -> bool:
        """Give a sign of life and see whether somebody has stopped the task, as the agent's monitor does."""
        try:
            self._server.ping(task_id)
            task = self._server.task(task_id)
            return task.status is not TaskStatus.IN_PROGRESS or "stopping" in task.status_message
        except TaskServerError:
            return False

    def _child_ended(self) -> None:
        """The child of a killed agent ends: only then is nothing left on the slot."""
        self._stage.task_ends(self._child_task)
        if self.child is not None:
            self.child.alive = False
        if not self.process.alive:
            self._slot.survivor_ends()
            self._changed()

    def _finish(self, task_id: TaskId) -> None:
        while True:
            try:
                if self._was_aborted:
                    self._server.stopped(task_id)
                else:
                    self._server.completed(task_id)
            except TaskServerRefused:
                return
            except TaskServerError:
                self._scheduler.sleep(POLL_S)
            else:
                return

    def _report(self, task_id: TaskId | None = None) -> None:
        now = self._clock.monotonic()
        if now - self._reported_at < REPORT_S:
            return
        try:
            self._server.status_report(self._worker_id, task_id)
        except TaskServerError:
            return
        self._reported_at = now
