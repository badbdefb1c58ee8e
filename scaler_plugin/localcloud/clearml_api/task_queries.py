"""Finding and showing tasks."""

from __future__ import annotations

import uuid
from typing import Any

from scaler_plugin.localcloud.clearml_api.answers import COMPANY_ID, Document, invalid_task_ids
from scaler_plugin.localcloud.clearml_api.call import Call, Endpoint
from scaler_plugin.localcloud.clearml_api.query import project_fields, scroll_position, select

TASK_FIELDS = frozenset(
    [
        "id",
        "company",
        "user",
        "name",
        "type",
        "status",
        "status_reason",
        "status_message",
        "status_changed",
        "comment",
        "report",
        "report_assets",
        "created",
        "started",
        "completed",
        "published",
        "active_duration",
        "parent",
        "project",
        "output",
        "execution",
        "tags",
        "system_tags",
        "script",
        "last_worker",
        "last_worker_report",
        "last_update",
        "last_change",
        "last_iteration",
        "last_metrics",
        "unique_metrics",
        "metric_stats",
        "hyperparams",
        "configuration",
        "runtime",
        "models",
        "container",
        "last_changed_by",
        "enqueue_status",
        "company_origin",
        "completed_by",
    ]
)

#: Never shown unless asked for by name.
QUIET_FIELDS = frozenset(("enqueue_status",))


def _shown(task: Document, only: list[str] | None = None) -> Document:
    if only:
        return project_fields(task, only)
    return {name: value for name, value in task.items() if name not in QUIET_FIELDS}


def get_by_id(call: Call) -> Document:
    """One task."""
    try:
        return {"task": _shown(call.tasks[call.data["task"]], call.data.get("only_fields"))}
    except KeyError:
        raise invalid_task_ids(call.data["task"]) from None


def _found(call: Call) -> list[Document]:
    wanted = call.data.get("id")
    ids = {wanted} if isinstance(wanted, str) else set(wanted or ())
    # One id is what agents ask for all the time.
    known = [call.tasks[task_id] for task_id in ids if task_id in call.tasks] if len(ids) == 1 else None
    return select(call.data, call.tasks.values() if known is None else known, TASK_FIELDS)


def _scrolled(call: Call, answer: Document) -> Document:
    if call.data.get("scroll_id") or call.data.get("size"):
        position = scroll_position(call.data) + len(answer["tasks"])
        answer["scroll_id"] = f"{uuid.uuid4().hex}-{position}"
    return answer


def get_all(call: Call) -> Document:
    """Tasks by filter."""
    only = call.data.get("only_fields")
    return _scrolled(call, {"tasks": [_shown(task, only) for task in _found(call)]})


def get_all_ex(call: Call) -> Document:
    """Tasks by filter, with what they refer to in place of its id. A field of a reference brings its id along."""
    only = list(call.data.get("only_fields") or ())
    only += [path.replace(".name", ".id") for path in only if path.endswith(".name")]
    return _scrolled(call, {"tasks": [_shown(_joined(call, task), only) for task in _found(call)]})


def get_by_id_ex(call: Call) -> Document:
    """Tasks by id (or other filters), with what they refer to in place of its id."""
    return get_all_ex(call)


def _joined(call: Call, task: Document) -> Document:
    joined: Document = {
        **task,
        "user": {"id": task["user"], "name": "Default User"},
        "company": {"id": COMPANY_ID, "name": "clearml"},
    }

    def named(kind: str, identifier: str) -> dict[str, Any]:
        other = call.state.documents[kind].get(identifier)
        return {"id": identifier, **({"name": other["name"]} if other else {})}

    if "project" in task:
        joined["project"] = named("project", task["project"])
    if "parent" in task:
        joined["parent"] = named("task", task["parent"])
    if "queue" in task["execution"]:
        joined["execution"] = {**task["execution"], "queue": named("queue", task["execution"]["queue"])}
    return joined


def get_types(call: Call) -> Document:
    """The types in use."""
    return {"types": sorted({task["type"] for task in call.tasks.values()})}


ENDPOINTS = {
    "tasks.get_by_id": Endpoint(get_by_id, required={"task": str}),
    "tasks.get_by_id_ex": Endpoint(get_by_id_ex),
    "tasks.get_all": Endpoint(get_all),
    "tasks.get_all_ex": Endpoint(get_all_ex),
    "tasks.get_types": Endpoint(get_types),
}
