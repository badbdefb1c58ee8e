"""Queues: their entries are what waits, in order. A pop takes the entry and leaves the task as it is."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from scaler_plugin.localcloud.clearml_api.answers import COMPANY_ID, ApiError, Document, invalid_queue
from scaler_plugin.localcloud.clearml_api.call import Call, Endpoint
from scaler_plugin.localcloud.clearml_api.query import project_fields, select

QUEUE_FIELDS = frozenset(
    ("id", "name", "display_name", "company", "created", "tags", "system_tags", "entries", "last_update", "metadata")
)

#: Queues with this tag are shown only to those who ask for hidden ones.
HIDDEN_TAG = "k8s-glue"


def queue_of(call: Call) -> Document:
    """The call's queue."""
    try:
        return call.queues[call.data["queue"]]
    except KeyError:
        raise invalid_queue(call.data["queue"]) from None


def new_queue(call: Call, name: str, **fields: Any) -> str:
    """Create a queue and return its id."""
    check_name(call, name)
    stamp = call.stamp()
    queue = {
        "id": uuid.uuid4().hex,
        "name": name,
        "company": COMPANY_ID,
        "created": stamp,
        "tags": [],
        "system_tags": [],
        "last_update": stamp,
        "metadata": {},
        **fields,
    }
    call.state.put("queue", queue)
    return str(queue["id"])


def check_name(call: Call, name: str, duplicate: str = "Tried to save duplicate unique keys") -> None:
    """Raise unless the name is long enough and free."""
    if len(name) < 3:
        raise ApiError(400, 800, "Data validation error", name="String value is too short")
    if any(queue["name"] == name for queue in call.queues.values()):
        detail = f"err={duplicate} (E11000 Duplicate Key Error)"
        raise ApiError(
            400, 801, f"Value combination already exists (unique field already contains this value): {detail}"
        )


def queue_id_of_name(call: Call, name: str) -> str:
    """The queue of that name, created when there is none."""
    for queue in call.queues.values():
        if queue["name"] == name:
            return str(queue["id"])
    return new_queue(call, name)


def default_queue_id(call: Call) -> str:
    """The queue tagged as default; the server always has one."""
    for queue in call.queues.values():
        if "default" in queue["system_tags"]:
            return str(queue["id"])
    return new_queue(call, "default", system_tags=["default"])


def add_entry(call: Call, queue_id: str, task_id: str) -> None:
    """Append the task to the queue and take it out of any other."""
    if task_id in call.state.entries[queue_id]:
        raise ApiError(400, 706, "Failed adding task to queue since task is already queued", task=task_id)
    call.state.remove_from_all_queues(task_id, keep=queue_id)
    call.state.append_entry(queue_id, task_id, call.stamp())
    touch(call, call.queues[queue_id])


def touch(call: Call, queue: Document) -> None:
    """The queue changed now."""
    queue["last_update"] = call.stamp()
    call.state.put("queue", queue)


def shown(call: Call, queue: Document, limit: int | None = None) -> Document:
    """The queue as answers show it. Before 2.13 ``metadata`` was a list."""
    entries = list(call.state.entries[queue["id"]].items())[:limit]
    return {
        **queue,
        "entries": [{"task": task, "added": entry.added} for task, entry in entries],
        "metadata": [] if call.version < (2, 13) else queue["metadata"],
    }


def _found(call: Call) -> list[Document]:
    hidden = call.data.get("search_hidden") or call.data.get("id")
    visible = (queue for queue in call.queues.values() if hidden or HIDDEN_TAG not in queue["system_tags"])
    return select(call.data, visible, QUEUE_FIELDS)


def create(call: Call) -> Document:
    """Create a queue."""
    tags = {name: sorted(set(call.data.get(name) or [])) for name in ("tags", "system_tags")}
    named = {"display_name": call.data["display_name"]} if call.data.get("display_name") else {}
    return {"id": new_queue(call, call.data["name"], **tags, **named)}


def update(call: Call) -> Document:
    """Rename or retag a queue."""
    queue = queue_of(call)
    fields: Document = {
        name: call.data[name] for name in ("name", "tags", "system_tags", "display_name") if name in call.data
    }
    if fields.get("name", queue["name"]) != queue["name"]:
        check_name(call, fields["name"], "Update failed")
    queue.update(fields)
    call.state.put("queue", queue)
    return {"fields": fields, "updated": 1}


def delete(call: Call) -> Document:
    """Delete a queue; with force, the tasks in it go back to where they came from."""
    queue = queue_of(call)
    if call.state.entries[queue["id"]] and not call.data.get("force"):
        raise ApiError(400, 702, "Queue is not empty (use force=true to delete)", id=queue["id"])
    _empty(call, queue, f"Queue {queue['id']} was deleted")
    call.state.drop("queue", queue["id"])
    return {"deleted": 1}


def clear_queue(call: Call) -> Document:
    """Take all tasks out of the queue."""
    queue = queue_of(call)
    return {"removed_tasks": _empty(call, queue, f"Queue {queue['id']} was cleared")}


def _empty(call: Call, queue: Document, reason: str) -> list[str]:
    removed = list(call.state.entries[queue["id"]])
    for task_id in removed:
        call.state.remove_entry(queue["id"], task_id)
        _back_from_queue(call, task_id, reason)
    touch(call, queue)
    return removed


def _back_from_queue(call: Call, task_id: str, reason: str) -> None:
    task = call.tasks.get(task_id)
    if task is None or task["status"] != "queued":
        return
    task["status"] = task.pop("enqueue_status", None) or "created"
    task["execution"].pop("queue", None)
    stamp = call.stamp()
    task.update(status_reason=reason, status_message="", status_changed=stamp, last_update=stamp, last_change=stamp)
    call.state.put("task", task)
    call.note(call.action, task, "queued", task["status"], reason=reason, message="")


def get_all(call: Call) -> Document:
    """Queues by filter, with their entries."""
    only, limit = call.data.get("only_fields"), call.data.get("max_task_entries")
    found = _found(call)
    if only and "entries" not in only:
        return {"queues": [project_fields(queue, only) for queue in found]}
    return {"queues": [project_fields(shown(call, queue, limit), only) for queue in found]}


def get_all_ex(call: Call) -> Document:
    """Queues with their tasks' names and their workers. The server ignores ``only_fields`` here."""
    return {"queues": [_extended(call, queue) for queue in _found(call)]}


def _extended(call: Call, queue: Document) -> Document:
    answer = shown(call, queue, call.data.get("max_task_entries"))
    answer["company"] = {"id": COMPANY_ID}
    for entry in answer["entries"]:
        entry["task"] = {"id": entry["task"], **_named(call.tasks.get(entry["task"]))}
    answer["workers"] = [_watcher(call, worker) for worker in watching(call, queue["id"])]
    return answer


def _named(task: Document | None) -> Document:
    return {"name": task["name"]} if task else {}


def watching(call: Call, queue_id: str) -> list[Document]:
    """The living workers that serve the queue."""

    def alive(worker: Document) -> bool:
        last_seen = datetime.fromisoformat(worker["last_activity_time"])
        return bool((call.now - last_seen).total_seconds() < worker["register_timeout"])

    return [worker for worker in call.workers.values() if queue_id in worker["queues"] and alive(worker)]


def _watcher(call: Call, worker: Document) -> Document:
    task = worker.get("task")
    return {
        "name": worker["id"],
        "ip": worker["ip"],
        "key": worker["key"],
        "task": {"id": task, **_named(call.tasks.get(task))} if task else None,
    }


def get_by_id(call: Call) -> Document:
    """One queue."""
    return {"queue": shown(call, queue_of(call), call.data.get("max_task_entries"))}


def get_default(call: Call) -> Document:
    """The default queue's id and name."""
    queue = call.queues[default_queue_id(call)]
    return {"id": queue["id"], "name": queue["name"]}


def get_next_task(call: Call) -> Document:
    """Pop the first entry. Only the entry goes: until someone starts the task it is ``queued`` in no queue.

    A task that was stopped meanwhile becomes ``queued`` again.
    """
    queue = queue_of(call)
    entries = call.state.entries[queue["id"]]
    task_id = next(iter(entries), None)
    if task_id is None or call.data.get("task", task_id) != task_id:
        return {}
    entry = {"task": task_id, "added": entries[task_id].added}
    call.state.remove_entry(queue["id"], task_id)
    touch(call, queue)
    answer: Document = {"entry": entry}
    if task := call.tasks.get(task_id):
        old = task["status"]
        if old == "stopped":
            task["status"] = "queued"
            call.state.put("task", task)
        call.note(call.action, task, old, task["status"], popped_from=queue["id"])
        if call.data.get("get_task_info"):
            answer["task_info"] = {"company": task["company"], "user": task["user"]}
    return answer


def get_num_entries(call: Call) -> Document:
    """How many tasks wait."""
    if call.data["queue"] not in call.queues:
        raise ApiError(400, 701, "Invalid queue id", queue_id=call.data["queue"])
    return {"num": len(call.state.entries[call.data["queue"]])}


def peek_task(call: Call) -> Document:
    """The task that would be popped."""
    return {"task": next(iter(call.state.entries[queue_of(call)["id"]]), None)}


def add_task(call: Call) -> Document:
    """Append any id. Of the task, only its queue is noted; the status stays."""
    queue = queue_of(call)
    add_entry(call, queue["id"], call.data["task"])
    if task := call.tasks.get(call.data["task"]):
        task["execution"]["queue"] = queue["id"]
        call.state.put("task", task)
    return {"added": 1}


def remove_task(call: Call) -> Document:
    """Remove an entry. The task stays ``queued`` unless its update is asked for."""
    queue = queue_of(call)
    _check_entry(call, queue)
    call.state.remove_entry(queue["id"], call.data["task"])
    touch(call, queue)
    if call.data.get("update_task_status"):
        _back_from_queue(call, call.data["task"], f"Task was removed from the queue {queue['id']}")
    return {"removed": 1}


def _check_entry(call: Call, queue: Document) -> None:
    if call.data["task"] not in call.state.entries[queue["id"]]:
        details = {"task": call.data["task"], "id": queue["id"], "company": COMPANY_ID}
        raise ApiError(400, 703, "Invalid queue id or task not in queue", **details)


def move(call: Call) -> Document:
    """Move an entry: to the front, to the back, or some places forward or backward."""
    queue = queue_of(call)
    _check_entry(call, queue)
    order = list(call.state.entries[queue["id"]])
    here, count = order.index(call.data["task"]), int(call.data.get("count") or 1)
    wanted = {
        "queues.move_task_to_front": 0,
        "queues.move_task_to_back": len(order),
        "queues.move_task_forward": here - count,
        "queues.move_task_backward": here + count,
    }[call.action]
    position = call.state.place_entry(queue["id"], call.data["task"], wanted)
    touch(call, queue)
    return {"position": position}


QUEUE = {"queue": str}
QUEUE_AND_TASK = {"queue": str, "task": str}

ENDPOINTS = {
    "queues.create": Endpoint(create, "2.4", required={"name": str}),
    "queues.update": Endpoint(update, "2.4", required=QUEUE),
    "queues.delete": Endpoint(delete, "2.4", required=QUEUE),
    "queues.clear_queue": Endpoint(clear_queue, required=QUEUE),
    "queues.get_all": Endpoint(get_all, "2.4"),
    "queues.get_all_ex": Endpoint(get_all_ex, "2.4"),
    "queues.get_by_id": Endpoint(get_by_id, "2.4", required=QUEUE),
    "queues.get_default": Endpoint(get_default, "2.4"),
    "queues.get_next_task": Endpoint(get_next_task, required=QUEUE),
    "queues.get_num_entries": Endpoint(get_num_entries, "2.15", required=QUEUE),
    "queues.peek_task": Endpoint(peek_task, "2.15", required=QUEUE),
    "queues.add_task": Endpoint(add_task, "2.4", required=QUEUE_AND_TASK),
    "queues.remove_task": Endpoint(remove_task, "2.4", required=QUEUE_AND_TASK),
    "queues.move_task_to_front": Endpoint(move, "2.4", required=QUEUE_AND_TASK),
    "queues.move_task_to_back": Endpoint(move, "2.4", required=QUEUE_AND_TASK),
    "queues.move_task_forward": Endpoint(move, "2.4", required=QUEUE_AND_TASK),
    "queues.move_task_backward": Endpoint(move, "2.4", required=QUEUE_AND_TASK),
    # Statistics come from a metrics store that neither this stand-in nor the recorded server had.
    "queues.get_queue_metrics": Endpoint(lambda _: {"queues": []}, "2.4"),
}
