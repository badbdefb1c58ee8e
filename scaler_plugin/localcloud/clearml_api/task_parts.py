"""The parts of a task that have calls of their own: hyper-parameters, configuration, artifacts, models."""

from __future__ import annotations

from collections.abc import Iterable

from scaler_plugin.localcloud.clearml_api.answers import Document
from scaler_plugin.localcloud.clearml_api.call import Call, Endpoint
from scaler_plugin.localcloud.clearml_api.task_status import task_of


def _changed(call: Call, task: Document) -> Document:
    task.update(last_update=call.stamp(), last_change=call.stamp())
    call.state.put("task", task)
    return {"updated": 1}


def add_or_update_artifacts(call: Call) -> Document:
    """Register artifacts by key and mode; their files are elsewhere."""
    task = task_of(call)
    kept = {(item["key"], item.get("mode", "output")): item for item in task["execution"]["artifacts"]}
    for item in call.data["artifacts"]:
        entry = {"mode": "output", "display_data": [], **item}
        kept[entry["key"], entry["mode"]] = entry
    task["execution"]["artifacts"] = list(kept.values())
    return _changed(call, task)


def delete_artifacts(call: Call) -> Document:
    """Forget artifacts by key and mode."""
    task = task_of(call)
    gone = {(item["key"], item.get("mode", "output")) for item in call.data["artifacts"]}
    artifacts = task["execution"]["artifacts"]
    task["execution"]["artifacts"] = [a for a in artifacts if (a["key"], a.get("mode", "output")) not in gone]
    return {"deleted": _changed(call, task)["updated"]}


def _tasks(call: Call) -> Iterable[Document]:
    return (call.tasks[task_id] for task_id in call.data["tasks"] if task_id in call.tasks)


def get_hyper_params(call: Call) -> Document:
    """All parameters of tasks as flat lists."""
    return {
        "params": [
            {
                "task": task["id"],
                "hyperparams": [item for section in task["hyperparams"].values() for item in section.values()],
            }
            for task in _tasks(call)
        ]
    }


def edit_hyper_params(call: Call) -> Document:
    """Set parameters; ``replace_hyperparams`` drops the named sections (``section``) or all (``all``) first."""
    task = task_of(call)
    replace = call.data.get("replace_hyperparams")
    if replace == "all":
        task["hyperparams"] = {}
    elif replace == "section":
        for item in call.data["hyperparams"]:
            task["hyperparams"].pop(item["section"], None)
    for item in call.data["hyperparams"]:
        task["hyperparams"].setdefault(item["section"], {})[item["name"]] = item
    return _changed(call, task)


def delete_hyper_params(call: Call) -> Document:
    """Drop parameters, or whole sections when no name is given."""
    task = task_of(call)
    for item in call.data["hyperparams"]:
        if item.get("name"):
            task["hyperparams"].get(item["section"], {}).pop(item["name"], None)
        else:
            task["hyperparams"].pop(item["section"], None)
    return {"deleted": _changed(call, task)["updated"]}


def get_configurations(call: Call) -> Document:
    """Configuration objects of tasks, all or by name."""
    names = call.data.get("names")
    return {
        "configurations": [
            {
                "task": task["id"],
                "configuration": [item for name, item in task["configuration"].items() if not names or name in names],
            }
            for task in _tasks(call)
        ]
    }


def get_configuration_names(call: Call) -> Document:
    """Names of the configuration objects of tasks."""
    return {"configurations": [{"task": task["id"], "names": sorted(task["configuration"])} for task in _tasks(call)]}


def edit_configuration(call: Call) -> Document:
    """Set configuration objects; ``replace_configuration`` drops the others."""
    task = task_of(call)
    if call.data.get("replace_configuration"):
        task["configuration"] = {}
    task["configuration"].update({item["name"]: item for item in call.data["configuration"]})
    return _changed(call, task)


def delete_configuration(call: Call) -> Document:
    """Drop configuration objects by name."""
    task = task_of(call)
    for name in call.data["configuration"]:
        task["configuration"].pop(name, None)
    return {"deleted": _changed(call, task)["updated"]}


def add_or_update_model(call: Call) -> Document:
    """Attach an input or output model under a name."""
    task = task_of(call)
    models = task["models"][call.data["type"]]
    models[:] = [item for item in models if item["name"] != call.data["name"]]
    models.append({"name": call.data["name"], "model": call.data["model"]})
    return _changed(call, task)


def delete_models(call: Call) -> Document:
    """Detach models by name and type."""
    task = task_of(call)
    for item in call.data["models"]:
        models = task["models"][item["type"]]
        models[:] = [model for model in models if model["name"] != item["name"]]
    return _changed(call, task)


TASKS = {"tasks": list}

ENDPOINTS = {
    "tasks.add_or_update_artifacts": Endpoint(
        add_or_update_artifacts, "2.10", required={"task": str, "artifacts": list}
    ),
    "tasks.delete_artifacts": Endpoint(delete_artifacts, "2.10", required={"task": str, "artifacts": list}),
    "tasks.get_hyper_params": Endpoint(get_hyper_params, "2.9", required=TASKS),
    "tasks.edit_hyper_params": Endpoint(edit_hyper_params, "2.9", required={"task": str, "hyperparams": list}),
    "tasks.delete_hyper_params": Endpoint(delete_hyper_params, "2.9", required={"task": str, "hyperparams": list}),
    "tasks.get_configurations": Endpoint(get_configurations, "2.9", required=TASKS),
    "tasks.get_configuration_names": Endpoint(get_configuration_names, "2.9", required=TASKS),
    "tasks.edit_configuration": Endpoint(edit_configuration, "2.9", required={"task": str, "configuration": list}),
    "tasks.delete_configuration": Endpoint(delete_configuration, "2.9", required={"task": str, "configuration": list}),
    "tasks.add_or_update_model": Endpoint(
        add_or_update_model, "2.13", required={"task": str, "name": str, "model": str, "type": str}
    ),
    "tasks.delete_models": Endpoint(delete_models, "2.13", required={"task": str, "models": list}),
}
