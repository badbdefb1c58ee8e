"""Projects and models: as much of them as the SDK needs to run tasks."""

from __future__ import annotations

import uuid

from scaler_plugin.localcloud.clearml_api.answers import COMPANY_ID, USER_ID, ApiError, Document
from scaler_plugin.localcloud.clearml_api.call import Call, Endpoint
from scaler_plugin.localcloud.clearml_api.query import project_fields, select

PROJECT_FIELDS = frozenset(
    [
        "id",
        "company",
        "user",
        "name",
        "basename",
        "description",
        "created",
        "tags",
        "system_tags",
        "last_update",
        "featured",
        "path",
        "parent",
        "default_output_destination",
    ]
)
MODEL_FIELDS = frozenset(
    [
        "id",
        "company",
        "user",
        "name",
        "created",
        "task",
        "project",
        "parent",
        "comment",
        "tags",
        "system_tags",
        "framework",
        "design",
        "labels",
        "uri",
        "ready",
        "last_update",
        "metadata",
    ]
)


def create_project(call: Call) -> Document:
    """Create a project."""
    name = call.data["name"]
    if any(project["name"] == name for project in call.projects.values()):
        raise ApiError(400, 801, "Value combination already exists (unique field already contains this value)")
    stamp = call.stamp()
    project = {
        "id": uuid.uuid4().hex,
        "company": COMPANY_ID,
        "user": USER_ID,
        "name": name,
        "basename": name.split("/")[-1],
        "description": call.data.get("description") or "",
        "created": stamp,
        "tags": sorted(call.data.get("tags") or []),
        "system_tags": sorted(call.data.get("system_tags") or []),
        "last_update": stamp,
        "featured": 9999,
    }
    call.state.put("project", project)
    return {"id": project["id"]}


def get_projects(call: Call) -> Document:
    """Projects by filter."""
    found = select(call.data, call.projects.values(), PROJECT_FIELDS)
    return {"projects": [project_fields(project, call.data.get("only_fields")) for project in found]}


def get_project(call: Call) -> Document:
    """One project."""
    project = call.projects.get(call.data["project"])
    if project is None:
        raise ApiError(400, 401, "Invalid project id", id=call.data["project"])
    return {"project": {**project, "path": []}}


def update_project(call: Call) -> Document:
    """Change a project's description, tags or name."""
    project = call.projects.get(call.data["project"])
    if project is None:
        raise ApiError(400, 401, "Invalid project id", id=call.data["project"])
    editable = ("name", "description", "tags", "system_tags", "default_output_destination")
    fields = {name: call.data[name] for name in editable if name in call.data}
    project.update(fields, last_update=call.stamp())
    call.state.put("project", project)
    return {"fields": fields, "updated": 1}


def create_model(call: Call) -> Document:
    """Create a model."""
    fields = {name: value for name, value in call.data.items() if name in MODEL_FIELDS}
    model = {
        "ready": True,
        "tags": [],
        "system_tags": [],
        "labels": {},
        "design": {},
        **fields,
        "id": uuid.uuid4().hex,
        "company": COMPANY_ID,
        "user": USER_ID,
        "created": call.stamp(),
        "last_update": call.stamp(),
    }
    call.state.put("model", model)
    return {"id": model["id"], "created": True}


def _model(call: Call) -> Document:
    try:
        return call.state.documents["model"][call.data["model"]]
    except KeyError:
        raise ApiError(400, 201, "Invalid model id", id=call.data["model"]) from None


def get_model(call: Call) -> Document:
    """One model."""
    return {"model": _model(call)}


def get_models(call: Call) -> Document:
    """Models by filter."""
    found = select(call.data, call.state.documents["model"].values(), MODEL_FIELDS)
    return {"models": [project_fields(model, call.data.get("only_fields")) for model in found]}


def edit_model(call: Call) -> Document:
    """Change a model."""
    model = _model(call)
    fields = {name: value for name, value in call.data.items() if name in MODEL_FIELDS - {"id"}}
    model.update(fields, last_update=call.stamp())
    call.state.put("model", model)
    return {"fields": fields, "updated": 1}


MODEL = {"model": str}

ENDPOINTS = {
    "projects.create": Endpoint(create_project, required={"name": str}),
    "projects.get_all": Endpoint(get_projects),
    "projects.get_all_ex": Endpoint(get_projects),
    "projects.get_by_id": Endpoint(get_project, required={"project": str}),
    "projects.update": Endpoint(update_project, required={"project": str}),
    "models.create": Endpoint(create_model, required={"uri": str, "name": str}),
    "models.get_by_id": Endpoint(get_model, required=MODEL),
    "models.get_all": Endpoint(get_models),
    "models.get_all_ex": Endpoint(get_models),
    "models.edit": Endpoint(edit_model, required=MODEL),
    "models.update": Endpoint(edit_model, required=MODEL),
}
