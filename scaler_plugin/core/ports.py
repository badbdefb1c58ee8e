"""The outside, as the services need it: each port has a real adapter and an in-memory twin that pass the same contract tests.

Every method may raise the errors that :mod:`scaler_plugin.errors` lists for its part; nothing else leaves an adapter.
``…Unavailable`` means that the outcome is unknown, ``…Refused`` that nothing happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from scaler_plugin.core.health import Vitals
from scaler_plugin.core.model import (
    Backlog,
    ClearmlWorker,
    Instance,
    InstanceId,
    LaunchId,
    LaunchRequest,
    Load,
    QueueName,
    ServerTask,
    Slot,
    TaskId,
    TaskInHand,
    TaskPage,
    TaskStatus,
    WorkerId,
)


class Clock(Protocol):
    """Time. Deadlines use ``monotonic``; what other machines read uses ``now``."""

    def now(self) -> float:
        """Wall clock, seconds since the epoch. May jump."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never jumps, and counts the time a machine was suspended where the OS can."""


class TaskServer(Protocol):
    """The ClearML server."""

    def backlogs(self, queues: Sequence[QueueName]) -> Mapping[QueueName, Backlog]:
        """The waiting tasks of these queues, in one call. A queue that does not exist is absent from the answer."""

    def create_queue(self, queue: QueueName) -> None:
        """Create the queue; a queue that exists already is left as it is."""

    def open_tasks(self, queues: Sequence[QueueName]) -> tuple[ServerTask, ...]:
        """The tasks that are queued or in progress and were last put into one of these queues."""

    def open_tasks_page(self, queues: Sequence[QueueName], statuses: Sequence[TaskStatus], page: int) -> TaskPage:
        """The page of this number (from 0) of those in one of these statuses, in one call.

        Tasks that come or go between two calls move others to another page.
        """

    def still_open(self, queues: Sequence[QueueName], task_ids: Sequence[TaskId]) -> tuple[ServerTask, ...]:
        """Those of these tasks, up to 500, that :meth:`open_tasks` would list, in one call."""

    def requeue(self, task: ServerTask, queue: QueueName, reason: str) -> bool:
        """Put the task at the head of the queue, its count of requeues raised by one and ``reason`` on record.

        False, and nothing changed, if the task is no longer as given (status, worker or time of change).
        """

    def fail_task(self, task: ServerTask, reason: str) -> bool:
        """Mark the task as failed with this status message; false, and nothing changed, if it is no longer as given."""

    def find_task(self, task_id: TaskId) -> TaskInHand | None:
        """The task; ``None`` if it does not exist or is in a status that no agent, person or rescue brings it into."""

    def ask_to_stop(self, task_id: TaskId, reason: str) -> None:
        """Abort the task as people do: its agent lets the task's abort callback run, ends it, and marks it as stopped."""

    def workers(self) -> tuple[ClearmlWorker, ...]:
        """All workers the server lists, with the task each reports."""

    def unregister_worker(self, worker_id: WorkerId) -> None:
        """Take the worker off the server's list; an unknown worker is no error."""


class Fleet(Protocol):
    """EC2, for one cluster."""

    def run_instances(self, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        """Start up to ``request.count`` instances and return at once with their ids (at least one).

        The same token with the same request never starts more: EC2 answers with the instances of the first call.
        """

    def instances(self) -> tuple[Instance, ...]:
        """All instances that carry the cluster's tag, except those long terminated. May lag behind by seconds."""

    def instances_of(self, launch_id: LaunchId) -> tuple[Instance, ...]:
        """The instances that carry this launch's tag, in whatever state."""

    def terminate(self, instance_ids: Sequence[InstanceId]) -> None:
        """Terminate the instances; unknown and terminated ones are no error."""

    def console_output(self, instance_id: InstanceId) -> str:
        """The tail of the instance's console, empty when EC2 has none yet."""


class Gates(Protocol):
    """The gates of a node's slots, from the sidecar's side. See ``agent.gate`` for the lock protocol."""

    def slots(self) -> tuple[Slot, ...]:
        """What each slot does now: its state on disk, corrected by the process tree, which has the last word."""

    def close(self) -> bool:
        """Take every gate exclusively, or none. True while held: no pull is under way and none can begin."""

    def open(self) -> None:
        """Let go of every gate. Harmless when none is held. Sealed gates stay closed for agents."""

    def seal(self) -> None:
        """Keep every gate closed for agents until the machine has ended, whatever becomes of this process."""

    def sealed(self) -> bool:
        """Whether this or an earlier process has sealed them since the machine booted."""


class Host(Protocol):
    """The machine the sidecar runs on."""

    def load(self) -> Load:
        """How much of the machine is in use."""

    def vitals(self) -> Vitals:
        """What the machine says of its own health, as of the newest look; returns at once."""

    def shut_down(self, reason: str) -> None:
        """Ask the operating system to shut down and return at once."""
