"""The life of a task: which status may follow which, and the calls that move a task along.

Source: the recordings, and the state machine of the open-source server where they are silent.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from scaler_plugin.localcloud.clearml_api.answers import (
    USER_ID,
    USER_NAME,
    ApiError,
    Document,
    invalid_queue,
    invalid_status_change,
    invalid_task,
)
from scaler_plugin.localcloud.clearml_api.call import Call, Endpoint
from scaler_plugin.localcloud.clearml_api.queues import add_entry, default_queue_id, queue_id_of_name, watching

#: Where a task may go from each status without force. Staying where it is, is always allowed.
ALLOWED = {
    "created": {"queued", "in_progress"},
    "queued": {"created", "in_progress", "stopped"},
    "in_progress": {"stopped", "failed", "created", "completed"},
    "stopped": {"closed", "created", "failed", "queued", "in_progress", "published", "publishing", "completed"},
    "closed": {"created", "failed", "published", "publishing", "stopped"},
    "failed": {"created", "stopped", "published", "queued"},
    "publishing": {"published"},
    "published": set(),
    "completed": {"published", "in_progress", "created"},
}

#: A worker that has reported a task within this time is taken to run it: ``tasks.stop`` only asks it to.
WORKER_ALIVE_S = 600


def task_of(call: Call, task_id: str | None = None) -> Document:
    """The call's task."""
    identifier = task_id or call.data["task"]
    try:
        return call.tasks[identifier]
    except KeyError:
        raise invalid_task(identifier) from None


def change_status(call: Call, task: Document, new: str, *, force: bool | None = None, **extra: Any) -> Document:
    """Move the task, write the change down, and return the changed fields as answers show them.

    Reason and message come from the call unless ``extra`` has them; a value of None removes the field.
    """
    old = task["status"]
    if not (call.data.get("force") if force is None else force) and new != old and new not in ALLOWED[old]:
        raise invalid_status_change(old, new)
    exact = call.exact_stamp()
    fields: Document = {
        "status": new,
        "status_reason": call.data.get("status_reason", "") or "",
        "status_message": call.data.get("status_message", "") or "",
        "status_changed": exact,
        "last_update": exact,
        "last_change": exact,
        "last_changed_by": USER_ID,
        **extra,
    }
    for name, value in fields.items():
        if value is None:
            task.pop(name, None)
        else:
            task[name] = call.stamp() if value == exact else value
    call.state.put("task", task)
    call.note(call.action, task, old, new, reason=fields["status_reason"], message=fields["status_message"])
    return fields


# --- the calls ---------------------------------------------------------------------------------------------------


def started(call: Call) -> Document:
    """The task runs. When it began is set once, until a reset."""
    task = task_of(call)
    extra: Document = {} if task.get("started") else {"started": call.exact_stamp()}
    return {"fields": change_status(call, task, "in_progress", **extra), "started": 1, "updated": 1}


def stopped(call: Call) -> Document:
    """The task was aborted. Its queue entry, if any, stays (unlike ``tasks.stop``)."""
    task = task_of(call)
    return {"fields": change_status(call, task, "stopped", completed=call.exact_stamp()), "updated": 1}


def failed(call: Call) -> Document:
    """The task failed."""
    return {"fields": change_status(call, task_of(call), "failed"), "updated": 1}


def completed(call: Call) -> Document:
    """The task is through."""
    fields = change_status(call, task_of(call), "completed", completed=call.exact_stamp())
    return {"fields": fields, "published": 0, "updated": 1}


def close(call: Call) -> Document:
    """The task is closed for further reports."""
    return {"fields": change_status(call, task_of(call), "closed"), "updated": 1}


def publish(call: Call) -> Document:
    """The task is published."""
    fields = change_status(call, task_of(call), "published", published=call.exact_stamp())
    return {"fields": fields, "committed_versions_results": [], "updated": 1}


def stop(call: Call, task_id: str | None = None) -> Document:
    """Abort: at once when nobody runs the task, else by a message that its agent will see."""
    task = task_of(call, task_id)
    queued = task["status"] == "queued"
    silent_s = (call.now - datetime.fromisoformat(task["last_update"])).total_seconds()
    run_by_worker = bool(task.get("last_worker")) and silent_s < WORKER_ALIVE_S
    if queued or "development" in task["system_tags"] or not run_by_worker:
        fields = change_status(call, task, "stopped", status_message=f"Stopped by {USER_NAME}")
        if queued:
            call.state.remove_from_all_queues(task["id"])
    else:
        fields = change_status(call, task, task["status"], status_message="stopping")
    return {"fields": fields, "updated": 1}


def enqueue(call: Call, task_id: str | None = None) -> Document:
    """Queue the task. The status changes first: a failing second step leaves its traces, as on the real server."""
    queue_id, queue_name = call.data.get("queue"), call.data.get("queue_name")
    if queue_id and queue_name:
        raise ApiError(400, 12, "Validation error (Either queue id or queue name should be provided)")
    task = task_of(call, task_id)
    if queue_name:
        queue_id = queue_id_of_name(call, queue_name)
    queue_id = queue_id or default_queue_id(call)
    before = task["status"]
    came_from = (task.get("enqueue_status") or before) if before == "queued" else before
    fields = change_status(call, task, "queued", enqueue_status=came_from)
    try:
        if queue_id not in call.queues:
            raise invalid_queue(queue_id)
        add_entry(call, queue_id, task["id"])
    except ApiError:
        change_status(
            call,
            task,
            before,
            force=True,
            status_reason="failed enqueueing",
            status_message="",
            enqueue_status=None,
        )
        raise
    task["execution"]["queue"] = fields["execution.queue"] = queue_id
    # From now on an agent runs it: stopping it is no longer a matter of the development machine.
    task["system_tags"] = [tag for tag in task["system_tags"] if tag != "development"]
    answer: Document = {"fields": fields, "queued": 1, "updated": 1}
    if call.data.get("verify_watched_queue"):
        answer["queue_watched"] = any(watching(call, queue_id))
    return answer


def dequeue(call: Call, task_id: str | None = None) -> Document:
    """Take the task out of its queue, back to the status it had before, or to ``new_status`` (what agents ask for).

    An unknown task and one that is in no such state are no errors.
    """
    identifier = task_id or call.data["task"]
    task = call.tasks.get(identifier)
    call.state.remove_from_all_queues(identifier)
    if task is None or task["status"] not in ("queued", "in_progress"):
        return {"dequeued": 1, "fields": {}, "updated": 0}
    new = call.data.get("new_status") or task.get("enqueue_status") or "created"
    fields = change_status(call, task, new, force=True, enqueue_status=None)
    return {"dequeued": 1, "fields": fields, "updated": 1}


#: What a reset wipes.
RUN_FIELDS = ("started", "completed", "published", "active_duration", "enqueue_status", "last_worker")


def reset(call: Call, task_id: str | None = None) -> Document:
    """Forget the task's run: back to ``created``, out of its queue, without events and times."""
    task = task_of(call, task_id)
    fields = change_status(call, task, "created", status_reason="reset", status_message="reset")
    removed = call.state.remove_from_all_queues(task["id"])
    for name in (*RUN_FIELDS, "last_worker_report"):
        task.pop(name, None)
    task["execution"].pop("queue", None)
    task["execution"]["artifacts"] = [a for a in task["execution"]["artifacts"] if a.get("mode") == "input"]
    task.update(last_iteration=0, last_metrics={}, unique_metrics=[], metric_stats={}, runtime={})
    task["models"]["output"] = []
    call.state.drop_events(task["id"])
    return {
        "deleted_models": 0,
        "dequeued": {"removed": 1} if removed else {},
        "events": {},
        "fields": fields,
        "updated": 1,
        "urls": {},
    }


def _many(one: Callable[[Call, str], Document], flag: str | None = None, drop: str = "") -> Callable[[Call], Document]:
    """The ``…_many`` form of a call: each id on its own, failures reported beside the successes."""

    def run(call: Call) -> Document:
        succeeded, failures = [], []
        for task_id in call.data["ids"]:
            try:
                answer = one(call, task_id)
            except ApiError as error:
                problem = {"codes": [error.status, error.subcode], "msg": error.message, "data": error.details}
                failures.append({"id": task_id, "error": problem})
                continue
            if flag:
                answer[flag] = bool(answer[flag])
            answer.pop(drop, None)
            succeeded.append({"id": task_id, **answer})
        return {"succeeded": succeeded, "failed": failures}

    return run


def delete(call: Call, task_id: str | None = None) -> Document:
    """Remove the task, its events and its queue entry."""
    task = task_of(call, task_id)
    if task["status"] != "created" and not call.data.get("force"):
        raise ApiError(
            400,
            123,
            "Task cannot be deleted (due to status, use force=True)",
            task=task["id"],
            expected="created",
            current=task["status"],
        )
    call.state.remove_from_all_queues(task["id"])
    call.state.drop_events(task["id"])
    call.note(call.action, task, task["status"], "deleted")
    call.state.drop("task", task["id"])
    return {"deleted": True, "updated_children": 0, "updated_models": 0, "deleted_models": 0, "urls": None}


TASK = {"task": str}
IDS = {"ids": list}

ENDPOINTS = {
    "tasks.started": Endpoint(started, required=TASK),
    "tasks.stop": Endpoint(stop, required=TASK),
    "tasks.stopped": Endpoint(stopped, required=TASK),
    "tasks.failed": Endpoint(failed, required=TASK),
    "tasks.completed": Endpoint(completed, "2.2", required=TASK),
    "tasks.close": Endpoint(close, required=TASK),
    "tasks.publish": Endpoint(publish, required=TASK),
    "tasks.enqueue": Endpoint(enqueue, required=TASK),
    "tasks.dequeue": Endpoint(dequeue, required=TASK),
    "tasks.reset": Endpoint(reset, required=TASK),
    "tasks.delete": Endpoint(delete, required=TASK),
    "tasks.enqueue_many": Endpoint(_many(enqueue, "queued"), required=IDS),
    "tasks.dequeue_many": Endpoint(_many(dequeue, "dequeued"), required=IDS),
    "tasks.stop_many": Endpoint(_many(stop), required=IDS),
    "tasks.reset_many": Endpoint(_many(reset, "dequeued", drop="events"), required=IDS),
    "tasks.delete_many": Endpoint(_many(delete), required=IDS),
}
