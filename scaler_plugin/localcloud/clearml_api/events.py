"""Events: console lines and scalars, kept in full, and their traces on the task. Plots and images are only kept."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from scaler_plugin.localcloud.clearml_api.answers import ApiError, Document
from scaler_plugin.localcloud.clearml_api.call import Call, Endpoint
from scaler_plugin.localcloud.clearml_api.tasks import mark_alive

LOG = "log"
SCALAR = "training_stats_scalar"
EVENT_TYPES = (LOG, SCALAR, "training_stats_vector", "training_debug_image", "plot")


def add(call: Call) -> Document:
    """Keep one event."""
    return _add_all(call, [call.data])


def add_batch(call: Call) -> Document:
    """Keep many events, sent as JSON lines."""
    if not call.batch:
        raise ApiError(400, 17, "Batch request contains no items")
    return _add_all(call, call.batch)


def _add_all(call: Call, events: list[Document]) -> Document:
    problems: Counter[str] = Counter()
    touched: dict[str, Document] = {}
    for event in events:
        task = call.tasks.get(event.get("task", ""))
        if event.get("type") not in EVENT_TYPES:
            problems[f"Invalid event type {event.get('type')}"] += 1
        elif task is None:
            problems[f"Invalid task id {event.get('task')}"] += 1
        else:
            call.state.add_event(event)
            if task["id"] not in touched:
                # As recorded: the statistics are those of the last batch.
                task["metric_stats"] = {}
            _trace(task, event)
            touched[task["id"]] = task
    for task in touched.values():
        mark_alive(call, task)
        task["last_change"] = call.stamp()
    failed = sum(problems.values())
    if failed == len(events):
        raise ApiError(400, 131, "Events not added", **problems)
    return {"added": len(events) - failed, "errors": failed, "errors_info": dict(problems)}


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _trace(task: Document, event: Document) -> None:
    task["last_iteration"] = max(task["last_iteration"], int(event.get("iter") or 0))
    metric = event.get("metric") or ""
    if event["type"] == SCALAR:
        variants = task["last_metrics"].setdefault(_md5(metric), {})
        key = _md5(event.get("variant") or "")
        variants[key] = _last_metric(variants.get(key), event)
    stats = task["metric_stats"].setdefault(_md5(metric), {"metric": metric, "event_stats_by_type": {}})
    stats["event_stats_by_type"][event["type"]] = {"last_update": event.get("timestamp")}


def _last_metric(known: Document | None, event: Document) -> Document:
    value, iteration = event.get("value"), event.get("iter") or 0
    if known is None:
        first: dict[str, Any] = {"metric": event.get("metric"), "variant": event.get("variant"), "value": value}
        for name in ("min_value", "max_value", "first_value"):
            first[name], first[f"{name}_iteration"] = value, iteration
        return {**first, "count": 1, "mean_value": value}
    known["value"] = value
    if isinstance(value, int | float):
        if value < known["min_value"]:
            known.update(min_value=value, min_value_iteration=iteration)
        if value > known["max_value"]:
            known.update(max_value=value, max_value_iteration=iteration)
        known["count"] += 1
        mean = known["mean_value"]
        known["mean_value"] = round(mean + (value - mean) / known["count"], 2)
    return known


def get_task_log(call: Call) -> Document:
    """The task's console, ``batch_size`` lines of it, oldest or (``order: desc``) newest first."""
    lines = call.state.events(call.data["task"], LOG)
    if call.data.get("order") == "desc":
        lines.reverse()
    page = lines[: int(call.data.get("batch_size") or 500)]
    return {"events": page, "returned": len(page), "total": len(lines)}


def get_task_events(call: Call) -> Document:
    """The task's events of one type."""
    events = call.state.events(call.data["task"], call.data.get("event_type") or LOG)
    page = events[: int(call.data.get("batch_size") or 500)]
    return {"events": page, "returned": len(page), "total": len(events)}


def scalar_metrics_iter_histogram(call: Call) -> Document:
    """The task's scalars as series by metric and variant."""
    series: Document = {}
    for event in call.state.events(call.data["task"], SCALAR):
        metric, variant = event.get("metric") or "", event.get("variant") or ""
        line = series.setdefault(metric, {}).setdefault(variant, {"name": variant, "x": [], "y": []})
        line["x"].append(event.get("iter") or 0)
        line["y"].append(event.get("value"))
    return series


TASK = {"task": str}

ENDPOINTS = {
    "events.add": Endpoint(add),
    "events.add_batch": Endpoint(add_batch, batch=True),
    "events.get_task_log": Endpoint(get_task_log, "2.9", required=TASK),
    "events.get_task_events": Endpoint(get_task_events, required=TASK),
    "events.scalar_metrics_iter_histogram": Endpoint(scalar_metrics_iter_histogram, required=TASK),
}
