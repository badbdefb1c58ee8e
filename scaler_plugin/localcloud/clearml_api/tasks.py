"""Tasks as documents: create, clone, edit. Finding them is in ``task_queries``, their life in ``task_status``."""

from __future__ import annotations

import copy
import uuid

from scaler_plugin.localcloud.clearml_api.answers import (
    COMPANY_ID,
    USER_ID,
    ApiError,
    Document,
)
from scaler_plugin.localcloud.clearml_api.call import Call, Endpoint
from scaler_plugin.localcloud.clearml_api.task_status import task_of

TASK_TYPES = [
    "training",
    "testing",
    "inference",
    "data_processing",
    "application",
    "monitor",
    "controller",
    "optimizer",
    "service",
    "qc",
    "custom",
]

#: What a client may set.
EDITABLE = (
    "name",
    "tags",
    "system_tags",
    "type",
    "comment",
    "parent",
    "project",
    "models",
    "container",
    "output",
    "execution",
    "hyperparams",
    "configuration",
    "script",
    "runtime",
)
MERGED = ("execution", "script", "output", "models")

#: Edits of these alone are no news about the task's work.
NO_UPDATE = frozenset(("tags", "system_tags", "comment", "name"))


def checked(call: Call) -> Document:
    """The fields of the request that a task has, tidied; raises for values the server refuses."""
    data = {name: call.data[name] for name in EDITABLE if call.data.get(name) is not None}
    if "output_dest" in call.data:
        data["output"] = {"destination": call.data["output_dest"]}
    if len(data.get("name", "long enough")) < 3:
        raise ApiError(400, 800, "Data validation error", name="String value is too short")
    if data.get("type", "training") not in TASK_TYPES:
        detail = f"error for field 'type': value '{data['type']}' is not a valid choice.."
        raise ApiError(400, 12, f"Validation error ({detail})")
    if data.get("project") and data["project"] not in call.projects:
        raise ApiError(400, 16, "Invalid value for fields (expecting Project id)", id=data["project"], field="project")
    for name in ("tags", "system_tags"):
        if name in data:
            data[name] = sorted(set(data[name]))
    return data


def new_task(call: Call, fields: Document) -> Document:
    """Add a task in status ``created`` with the server's defaults."""
    stamp = call.stamp()
    task: Document = {
        "id": uuid.uuid4().hex,
        "company": COMPANY_ID,
        "user": USER_ID,
        "name": fields["name"],
        "type": fields["type"],
        "status": "created",
        "report_assets": [],
        "created": stamp,
        "output": {},
        "execution": {"test_split": 0, "parameters": {}, "model_desc": {}, "model_labels": {}, "artifacts": []},
        "tags": [],
        "system_tags": [],
        "script": {"binary": "python", "repository": "", "entry_point": "", "requirements": {}},
        "last_update": stamp,
        "last_change": stamp,
        "last_iteration": 0,
        "last_metrics": {},
        "unique_metrics": [],
        "metric_stats": {},
        "hyperparams": {},
        "configuration": {},
        "runtime": {},
        "models": {"input": [], "output": []},
        "container": {},
        "last_changed_by": USER_ID,
    }
    for name, value in fields.items():
        task[name] = {**task[name], **value} if name in MERGED else value
    call.state.put("task", task)
    touch_project(call, task)
    call.note(call.action, task, "", "created")
    return task


def touch_project(call: Call, task: Document) -> None:
    """A project's last update is that of its tasks."""
    if project := call.projects.get(task.get("project", "")):
        project["last_update"] = call.stamp()
        call.state.put("project", project)


def create(call: Call) -> Document:
    """Create a task."""
    return {"id": new_task(call, checked(call))["id"]}


#: Marks of one run that a clone does not inherit.
RUN_TAGS = frozenset(("development", "archived"))


def clone(call: Call) -> Document:
    """Copy a task's definition, not its run."""
    source = task_of(call)
    data = call.data
    fields: Document = {
        name: copy.deepcopy(source[name])
        for name in ("type", "comment", "project", "script", "hyperparams", "configuration", "container", "tags")
        if name in source
    }
    fields["name"] = data.get("new_task_name") or source["name"]
    fields["system_tags"] = [tag for tag in source["system_tags"] if tag not in RUN_TAGS]
    fields["models"] = {"input": copy.deepcopy(source["models"]["input"]), "output": []}
    execution = copy.deepcopy(source["execution"])
    execution.pop("queue", None)
    execution["artifacts"] = [a for a in execution["artifacts"] if a.get("mode") == "input"]
    fields["execution"] = {**execution, **(data.get("execution_overrides") or {})}
    if destination := source["output"].get("destination"):
        fields["output"] = {"destination": destination}
    for name in ("comment", "tags", "system_tags", "parent", "project", "container", "configuration", "hyperparams"):
        if data.get(f"new_task_{name}") is not None:
            fields[name] = data[f"new_task_{name}"]
    fields.setdefault("parent", source["id"])
    return {"id": new_task(call, fields)["id"]}


def edit(call: Call) -> Document:
    """Change a task's definition; once it left ``created`` only with force."""
    task = task_of(call)
    if task["status"] != "created" and not call.data.get("force"):
        raise ApiError(400, 110, "Invalid task status", expected="created", status=task["status"])
    fields = checked(call)
    changes = _apply(call, task, fields)
    if not NO_UPDATE.issuperset(fields) or "name" in fields:
        task["last_update"] = call.stamp()
        changes["last_update"] = call.exact_stamp()
    return {"fields": changes, "updated": 1}


def update(call: Call) -> Document:
    """Change a task's description in any status."""
    task = task_of(call)
    allowed = ("name", "tags", "system_tags", "comment", "project", "output")
    return {
        "fields": _apply(call, task, {name: value for name, value in checked(call).items() if name in allowed}),
        "updated": 1,
    }


def _apply(call: Call, task: Document, fields: Document) -> Document:
    changes: Document = {name: {**task[name], **value} if name in MERGED else value for name, value in fields.items()}
    if "queue" in task["execution"] and "execution" in changes:
        changes["execution"]["queue"] = task["execution"]["queue"]
    task.update(changes)
    task.update(last_change=call.stamp(), last_changed_by=USER_ID)
    call.state.put("task", task)
    touch_project(call, task)
    return {**changes, "last_change": call.exact_stamp(), "last_changed_by": USER_ID}


def set_requirements(call: Call) -> Document:
    """Set the Python packages the task needs, in any status."""
    task = task_of(call)
    task["script"]["requirements"] = call.data["requirements"]
    task.update(last_update=call.stamp(), last_change=call.stamp())
    call.state.put("task", task)
    return {"fields": {}, "updated": 1}


def mark_alive(call: Call, task: Document) -> None:
    """The task was heard of: what the watchdog and ``tasks.stop`` go by."""
    task["last_update"] = call.stamp()
    if task["status"] == "in_progress" and task.get("started"):
        begun = call.now.fromisoformat(task["started"])
        task["active_duration"] = int((call.now - begun).total_seconds())
    call.state.put("task", task)


def ping(call: Call) -> Document:
    """A sign of life; an unknown task is no error."""
    if task := call.tasks.get(call.data["task"]):
        mark_alive(call, task)
    return {}


def archive(call: Call) -> Document:
    """Tag tasks as archived."""
    found = [call.tasks[task_id] for task_id in call.data["tasks"] if task_id in call.tasks]
    for task in found:
        task["system_tags"] = sorted({*task["system_tags"], "archived"})
        task["last_change"] = call.stamp()
        call.state.put("task", task)
    return {"archived": len(found)}


def unarchive_many(call: Call) -> Document:
    """Take the archived tag off."""
    found = [call.tasks[task_id] for task_id in call.data["ids"] if task_id in call.tasks]
    for task in found:
        task["system_tags"] = [tag for tag in task["system_tags"] if tag != "archived"]
        call.state.put("task", task)
    return {"succeeded": [{"id": task["id"], "unarchived": True} for task in found], "failed": []}


TASK = {"task": str}

ENDPOINTS = {
    "tasks.create": Endpoint(create, required={"name": str, "type": str}),
    "tasks.clone": Endpoint(clone, required=TASK),
    "tasks.edit": Endpoint(edit, required=TASK),
    "tasks.update": Endpoint(update, required=TASK),
    "tasks.set_requirements": Endpoint(set_requirements, required={"task": str, "requirements": dict}),
    "tasks.ping": Endpoint(ping, required=TASK),
    "tasks.archive": Endpoint(archive, required={"tasks": list}),
    "tasks.unarchive_many": Endpoint(unarchive_many, required={"ids": list}),
}
