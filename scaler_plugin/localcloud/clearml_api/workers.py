"""Workers: whoever registers or reports is one, until it is silent for its timeout."""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase

from scaler_plugin.localcloud.clearml_api.answers import (
    COMPANY_ID,
    USER_ID,
    USER_NAME,
    ApiError,
    Document,
    invalid_task,
)
from scaler_plugin.localcloud.clearml_api.call import Call, Endpoint

#: How long a silent worker stays listed unless it registered with another timeout.
DEFAULT_TIMEOUT_S = 600


def _new(call: Call, worker_id: str, timeout_s: int = DEFAULT_TIMEOUT_S) -> Document:
    exact = call.exact_stamp()
    return {
        "id": worker_id,
        "key": f"worker_{COMPANY_ID}_{USER_ID}_{worker_id}",
        "ip": call.address,
        "register_time": exact,
        "register_timeout": timeout_s,
        "last_activity_time": exact,
        "queues": [],
        "tags": [],
        "system_tags": [],
    }


def _drop_expired(call: Call) -> None:
    for worker in list(call.workers.values()):
        if _silent_s(call, worker) >= worker["register_timeout"]:
            call.state.drop("worker", worker["id"])


def _silent_s(call: Call, worker: Document) -> float:
    return (call.now - datetime.fromisoformat(worker["last_activity_time"])).total_seconds()


def register(call: Call) -> Document:
    """Register, silently in place of an older registration, whose task and tags are forgotten."""
    timeout_s, queues = call.data.get("timeout"), call.data.get("queues") or []
    if timeout_s is not None and timeout_s <= 0:
        details = {"timeout": timeout_s, "worker": call.data["worker"]}
        raise ApiError(400, 1002, "Worker registration failed (invalid timeout)", **details)
    if unknown := [queue for queue in queues if queue not in call.queues]:
        raise ApiError(400, 701, "Invalid queue id", ids=f"({', '.join(unknown)})")
    worker = _new(call, call.data["worker"], timeout_s or DEFAULT_TIMEOUT_S)
    worker["queues"] = queues
    worker.update({name: call.data.get(name) or [] for name in ("tags", "system_tags")})
    call.state.put("worker", worker)
    return {}


def unregister(call: Call) -> Document:
    """Take the worker off the list; an unknown one is no error."""
    call.state.drop("worker", call.data["worker"])
    return {}


def status_report(call: Call) -> Document:
    """A worker's sign of life, with its task; without one, the task it had is cleared."""
    _drop_expired(call)
    task_id = call.data.get("task")
    if task_id and task_id not in call.tasks:
        raise invalid_task(task_id)
    worker = call.workers.get(call.data["worker"]) or _new(call, call.data["worker"])
    worker["last_activity_time"] = worker["last_report_time"] = call.exact_stamp()
    for name in ("task", "queue"):
        worker.pop(name, None)
        if call.data.get(name):
            worker[name] = call.data[name]
    for name in ("queues", "tags", "system_tags"):
        if call.data.get(name):
            worker[name] = call.data[name]
    call.state.put("worker", worker)
    if task_id:
        task = call.tasks[task_id]
        stamp = call.stamp()
        if task.get("last_worker") != worker["id"]:
            task["last_worker"] = worker["id"]
            call.note(call.action, task, task["status"], task["status"])
        task.update(last_worker_report=stamp, last_update=stamp)
        call.state.put("task", task)
    return {}


def _seen(call: Call) -> list[Document]:
    _drop_expired(call)
    last_seen_s = call.data.get("last_seen")
    last_seen_s = 3600 if last_seen_s is None else last_seen_s
    workers = list(call.workers.values())
    return [worker for worker in workers if not last_seen_s or _silent_s(call, worker) <= last_seen_s]


def get_all(call: Call) -> Document:
    """The listed workers; ``worker_pattern`` is a glob, ``last_seen`` in seconds."""
    pattern = call.data.get("worker_pattern") or "*"
    wanted_tags = set(call.data.get("tags") or ())
    return {
        "workers": [
            _shown(call, worker)
            for worker in _seen(call)
            if fnmatchcase(worker["id"], pattern) and (not wanted_tags or wanted_tags & set(worker["tags"]))
        ]
    }


def _shown(call: Call, worker: Document) -> Document:
    answer = {
        **worker,
        "company": {"id": COMPANY_ID, "name": "clearml"},
        "user": {"id": USER_ID, "name": USER_NAME},
        "queues": [_queue(call, queue) for queue in worker["queues"]],
    }
    if "queue" in worker:
        answer["queue"] = _queue(call, worker["queue"])
    if "task" in worker:
        answer["task"] = {"id": worker["task"]}
        if task := call.tasks.get(worker["task"]):
            running_ms = task.get("active_duration", 0) * 1000
            answer["task"].update(name=task["name"], last_iteration=task["last_iteration"], running_time=running_ms)
            if project := call.projects.get(task.get("project", "")):
                answer["project"] = {"id": project["id"], "name": project["name"]}
    return answer


def _queue(call: Call, queue_id: str) -> Document:
    queue = call.queues.get(queue_id)
    if queue is None:
        return {"id": queue_id}
    entries = call.state.entries[queue_id]
    answer = {"id": queue_id, "name": queue["name"], "num_tasks": len(entries)}
    if entries:
        first = next(iter(entries))
        task = call.tasks.get(first)
        answer["next_task"] = {"id": first, **({"name": task["name"]} if task else {})}
    return answer


def get_count(call: Call) -> Document:
    """How many workers are listed."""
    return {"count": len(_seen(call))}


WORKER = {"worker": str}

ENDPOINTS = {
    "workers.register": Endpoint(register, "2.4", required=WORKER),
    "workers.unregister": Endpoint(unregister, "2.4", required=WORKER),
    "workers.status_report": Endpoint(status_report, "2.4", required={"worker": str, "timestamp": int}),
    "workers.get_all": Endpoint(get_all, "2.4"),
    "workers.get_count": Endpoint(get_count),
    # Statistics come from a metrics store that neither this stand-in nor the recorded server had.
    "workers.get_stats": Endpoint(lambda _: {"workers": []}, "2.4"),
    "workers.get_activity_report": Endpoint(
        lambda _: {"active": {"counts": [], "dates": []}, "total": {"counts": [], "dates": []}}, "2.4"
    ),
}
