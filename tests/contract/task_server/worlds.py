"""The two ClearML servers that the contract is held against, each with the port and with the sides of people and agents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import requests

from scaler_plugin.clearml_server.api import ClearmlServer
from scaler_plugin.clearml_server.memory import MemoryTaskServer
from scaler_plugin.clearml_server.memory_client import Fault, MemoryTaskClient
from scaler_plugin.clearml_server.putting_back import STATUS_REASON
from scaler_plugin.core.model import QueueName, TaskId, WorkerId
from scaler_plugin.core.ports import TaskServer
from scaler_plugin.errors import TaskServerRefused
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess
from scaler_plugin.simulation.clock import VirtualClock

from ...waiting import PATIENCE_S

SHOWN = ["status", "status_reason", "status_message", "enqueue_status", "execution.queue", "started", "completed"]
SHOWN += ["last_worker", "tags", "system_tags"]

#: The steps of a requeue in their order, and the call that each is on the real server.
STEPS = {
    "read the queue": "queues.get_all",
    "look at the task": "tasks.get_all",
    "raise the count": "tasks.update",
    "enqueue": "tasks.enqueue",
    "move to the front": "queues.move_task_to_front",
}


@dataclass(frozen=True)
class Snapshot:
    """What anybody may see of a task, without its id and times."""

    status: str
    enqueue_status: str | None
    queue: str | None
    waiting: bool  # in the entries of that queue
    started: bool
    completed: bool
    last_worker: str | None
    reason: str
    stopping: bool
    rescue: str  # the message, where the reason says that a rescue wrote it
    tags: tuple[str, ...]
    requeues: int


class World(Protocol):
    """A server, and what people and agents do with it. Refusals are raised as ``TaskServerRefused`` with their sub-code."""

    leader: TaskServer

    def create_task(self) -> TaskId: ...
    def enqueue(self, task: TaskId, queue: QueueName, *, force: bool = False) -> None: ...
    def dequeue(self, task: TaskId) -> None: ...
    def stop(self, task: TaskId) -> None: ...
    def reset(self, task: TaskId) -> None: ...
    def get_next_task(self, queue: QueueName) -> TaskId | None: ...
    def started(self, task: TaskId, *, force: bool = False) -> None: ...
    def completed(self, task: TaskId) -> None: ...
    def failed(self, task: TaskId) -> None: ...
    def stopped(self, task: TaskId) -> None: ...
    def register_worker(self, worker: WorkerId, queues: Sequence[QueueName]) -> None: ...
    def status_report(self, worker: WorkerId, task: TaskId | None = None) -> None: ...
    def set_tags(self, task: TaskId, tags: Sequence[str]) -> None: ...
    def set_queue_tags(self, queue: QueueName, tags: Sequence[str]) -> None: ...
    def snapshot(self, task: TaskId) -> Snapshot: ...
    def let_time_pass(self) -> None:
        """So that what comes next has a later time than what was before."""

    def lose_the_next_call(self, *, after_its_effect: bool) -> None:
        """The leader's next call brings no answer."""

    def lose_a_step(self, step: str, *, after_its_effect: bool) -> None:
        """This step of the leader's next requeue brings no answer."""

    def leader_with_wrong_keys(self) -> TaskServer: ...


class MemoryWorld:
    def __init__(self) -> None:
        self._clock = VirtualClock()
        self.server = MemoryTaskServer(self._clock)
        self.leader: MemoryTaskClient = self.server.client("leader")
        self.create_task = self.server.create_task
        self.enqueue = self.server.enqueue
        self.dequeue = self.server.dequeue
        self.stop = self.server.stop
        self.reset = self.server.reset
        self.get_next_task = self.server.get_next_task
        self.started = self.server.started
        self.completed = self.server.completed
        self.failed = self.server.failed
        self.stopped = self.server.stopped
        self.register_worker = self.server.register_worker
        self.status_report = self.server.status_report
        self.set_tags = self.server.set_tags
        self.set_queue_tags = self.server.set_queue_tags

    def snapshot(self, task: TaskId) -> Snapshot:
        seen = self.server.task(task)
        entries = self.server.backlogs([seen.queue])[seen.queue].task_ids if seen.queue else ()
        return Snapshot(
            status=seen.status.value,
            enqueue_status=seen.enqueue_status.value if seen.enqueue_status else None,
            queue=seen.queue,
            waiting=task in entries,
            started=seen.started_at is not None,
            completed=seen.completed_at is not None,
            last_worker=seen.last_worker,
            reason=seen.status_reason,
            stopping=seen.status_message == "stopping",
            rescue=seen.status_message if seen.status_reason == STATUS_REASON else "",
            tags=seen.tags,
            requeues=seen.requeues,
        )

    def let_time_pass(self) -> None:
        self._clock.advance(1.0)

    def lose_the_next_call(self, *, after_its_effect: bool) -> None:
        self.leader.next_faults.append(Fault.UNAVAILABLE_AFTER if after_its_effect else Fault.UNAVAILABLE_BEFORE)

    def lose_a_step(self, step: str, *, after_its_effect: bool) -> None:
        self.leader.next_faults.extend([Fault.NONE] * list(STEPS).index(step))
        self.lose_the_next_call(after_its_effect=after_its_effect)

    def leader_with_wrong_keys(self) -> TaskServer:
        client = self.server.client("stranger")
        client.fault = Fault.BAD_CREDENTIALS
        return client


class LiveWorld:
    """The stand-in in a process of its own. People and agents speak plain HTTP, so that the adapter is not its own witness."""

    def __init__(self, api: ClearmlApiProcess) -> None:
        self._api = api
        self._http = requests.Session()
        self._http.auth = (api.access_key, api.secret_key)
        self._ids: dict[QueueName, str] = {}
        self.leader: ClearmlServer = self.new_leader()

    def new_leader(self, timeout_s: float = PATIENCE_S) -> ClearmlServer:
        return ClearmlServer(self._api.url, self._api.access_key, self._api.secret_key, timeout_s=timeout_s)

    def post(self, action: str, **body: Any) -> dict[str, Any]:
        answer = self._http.post(f"{self._api.url}/{action}", json=body, timeout=PATIENCE_S).json()
        meta = answer["meta"]
        if meta["result_code"] != 200:
            raise TaskServerRefused(meta["result_msg"], meta["result_subcode"])
        data: dict[str, Any] = answer["data"]
        return data

    def create_task(self) -> TaskId:
        return TaskId(self.post("tasks.create", name="task", type="training")["id"])

    def enqueue(self, task: TaskId, queue: QueueName, *, force: bool = False) -> None:
        self.post("tasks.enqueue", task=task, queue_name=queue, force=force)

    def dequeue(self, task: TaskId) -> None:
        self.post("tasks.dequeue", task=task)

    def stop(self, task: TaskId) -> None:
        self.post("tasks.stop", task=task)

    def reset(self, task: TaskId) -> None:
        self.post("tasks.reset", task=task)

    def get_next_task(self, queue: QueueName) -> TaskId | None:
        entry = self.post("queues.get_next_task", queue=self.queue_id(queue)).get("entry")
        return TaskId(entry["task"]) if entry else None

    def started(self, task: TaskId, *, force: bool = False) -> None:
        self.post("tasks.started", task=task, force=force)

    def completed(self, task: TaskId) -> None:
        self.post("tasks.completed", task=task)

    def failed(self, task: TaskId) -> None:
        self.post("tasks.failed", task=task)

    def stopped(self, task: TaskId) -> None:
        self.post("tasks.stopped", task=task)

    def register_worker(self, worker: WorkerId, queues: Sequence[QueueName]) -> None:
        self.post("workers.register", worker=worker, queues=[self.queue_id(queue) for queue in queues])

    def status_report(self, worker: WorkerId, task: TaskId | None = None) -> None:
        self.post("workers.status_report", worker=worker, timestamp=1, **({"task": task} if task else {}))

    def set_tags(self, task: TaskId, tags: Sequence[str]) -> None:
        self.post("tasks.update", task=task, tags=tags)

    def set_queue_tags(self, queue: QueueName, tags: Sequence[str]) -> None:
        self.post("queues.update", queue=self.queue_id(queue), tags=tags)

    def snapshot(self, task: TaskId) -> Snapshot:
        # tasks.get_by_id does not show ``enqueue_status``; get_all does when asked for it.
        (seen,) = self.post("tasks.get_all", id=[task], only_fields=SHOWN, search_hidden=True)["tasks"]
        queue_id = seen.get("execution", {}).get("queue")
        queue = self.post("queues.get_by_id", queue=queue_id)["queue"] if queue_id else None
        return Snapshot(
            status=seen["status"],
            enqueue_status=seen.get("enqueue_status"),
            queue=queue["name"] if queue else None,
            waiting=queue is not None and any(entry["task"] == task for entry in queue["entries"]),
            started=bool(seen.get("started")),
            completed=bool(seen.get("completed")),
            last_worker=seen.get("last_worker"),
            reason=seen.get("status_reason", ""),
            stopping=seen.get("status_message") == "stopping",
            rescue=seen["status_message"] if seen.get("status_reason") == STATUS_REASON else "",
            tags=tuple(seen["tags"]),
            requeues=max((int(tag.split(":")[1]) for tag in seen["system_tags"] if "requeued" in tag), default=0),
        )

    def let_time_pass(self) -> None:
        """Real time passes by itself."""

    def lose_the_next_call(self, *, after_its_effect: bool) -> None:
        self.inject(action=r"^(queues\.create|queues\.get_all)$", drop=True, after=after_its_effect, times=1)

    def lose_a_step(self, step: str, *, after_its_effect: bool) -> None:
        self.inject(action=f"^{re.escape(STEPS[step])}$", drop=True, after=after_its_effect, times=1)

    def leader_with_wrong_keys(self) -> TaskServer:
        return ClearmlServer(self._api.url, self._api.access_key, "wrong-secret", credentials_source="file:/etc/keys")

    def inject(self, **fault: Any) -> None:
        requests.post(f"{self._api.url}/_faults", json=fault, timeout=PATIENCE_S).raise_for_status()

    def heal(self) -> None:
        requests.delete(f"{self._api.url}/_faults", timeout=PATIENCE_S).raise_for_status()

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = requests.get(f"{self._api.url}/_journal?since={since}", timeout=PATIENCE_S).json()
        return lines

    def close(self) -> None:
        self.leader.close()
        self._http.close()

    def queue_id(self, queue: QueueName) -> str:
        if queue not in self._ids:
            pattern = f"^{re.escape(queue)}$"
            listed = self.post("queues.get_all", name=pattern, search_hidden=True, only_fields=["id", "name"])["queues"]
            self._ids.update({QueueName(item["name"]): item["id"] for item in listed})
        return self._ids.get(queue, "no-such-queue")
