"""What the servers have recorded of a world, and what its tasks wrote down while they ran: all that the invariants are judged by.

Nothing here asks our own code what it believes, but for the keys and values that it left in etcd's history.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from scaler_plugin.cloud import tags

TIMEOUT_S = 60.0


@dataclass
class Run:
    """One process of a task on one machine, from its first to its last sign of life (seconds since the epoch).

    ``resumed_at`` is how much of the work it found done.
    """

    task: str
    node: str
    began: float
    last: float
    ended: bool = False  # it came to its own end
    resumed_at: float = 0.0


@dataclass(frozen=True)
class Change:
    """A transition of a task, as ClearML made it. ``caller`` is the worker that asked for it, where it says so."""

    at: float
    task: str
    action: str
    old: str
    new: str
    caller: str


@dataclass
class Instance:
    """An instance's life by EC2's account: ``leaving`` is when it began to shut down."""

    id: str
    pool: str
    launch: str
    launched: float
    leaving: float | None = None
    terminated: float | None = None


@dataclass(frozen=True)
class LaunchCall:
    """A RunInstances call that EC2 has answered with instances. ``address`` is the caller's."""

    at: float
    address: str
    token: str
    launch: str
    most: int
    instance_ids: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """One change of a key in one etcd's history; ``value`` is ``None`` for a deletion."""

    revision: int
    key: str
    created: int
    value: str | None


@dataclass
class Record:
    statuses: dict[str, str] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    changes: list[Change] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    instances: dict[str, Instance] = field(default_factory=dict)
    launch_calls: list[LaunchCall] = field(default_factory=list)
    ec2_calls: list[dict[str, Any]] = field(default_factory=list)
    #: One history for each etcd there was: an emptied one begins anew.
    histories: list[list[Written]] = field(default_factory=list)


def read_tasks(record: Record, url: str, auth: tuple[str, str]) -> None:
    """Tasks, queues and transitions of the ClearML stand-in."""
    tasks = _post(f"{url}/tasks.get_all", auth, {"only_fields": ["id", "status"], "page_size": 500, "page": 0})["tasks"]
    queues = _post(f"{url}/queues.get_all", auth, {"only_fields": ["entries"]})["queues"]
    record.statuses = {task["id"]: task["status"] for task in tasks}
    record.waiting = {entry["task"] for queue in queues for entry in queue.get("entries") or ()}
    record.changes = [
        Change(line["t"], line["task"], line["action"], line["from"], line["to"], line["caller"])
        for line in requests.get(f"{url}/_transitions", timeout=TIMEOUT_S).json()
    ]


def read_runs(record: Record, ledger: Path) -> None:
    """What the tasks themselves wrote, a line at a time."""
    runs: dict[tuple[str, str], Run] = {}
    for line in ledger.read_text().splitlines() if ledger.exists() else ():
        seen = json.loads(line)
        begun = Run(seen["task"], seen["node"], seen["at"], seen["at"], resumed_at=seen["done"])
        run = runs.setdefault((seen["task"], seen["run"]), begun)
        run.last, run.ended = seen["at"], run.ended or seen["what"] == "end"
    record.runs = list(runs.values())


def read_ec2(record: Record, url: str, changes: Path) -> None:
    """Every call, and every instance with the times of its states: the double's own ledgers."""
    record.ec2_calls = requests.get(f"{url}/_journal", timeout=TIMEOUT_S).json()
    for one in requests.get(f"{url}/_instances", timeout=TIMEOUT_S).json():
        tagged = one["tags"]
        instance = Instance(one["id"], tagged.get(tags.POOL, ""), tagged.get(tags.LAUNCH, ""), one["launched_at"])
        record.instances[one["id"]] = instance
    for line in changes.read_text().splitlines():
        change = json.loads(line)
        if move := change.get("move"):
            instance = record.instances[move["id"]]
            if move["state"] in ("shutting-down", "terminated") and instance.leaving is None:
                instance.leaving = change["at"]
            if move["state"] == "terminated":
                instance.terminated = change["at"]
    for call in record.ec2_calls:
        if call["action"] == "TerminateInstances" and call["error"] is None:
            for name, value in call["parameters"].items():
                ended = record.instances.get(value) if name.startswith("InstanceId.") else None
                if ended is not None and (ended.leaving is None or call["time"] < ended.leaving):
                    ended.leaving = call["time"]
        # A call that was cut off after its work has no answer in the journal; its instances are known by their tag.
        if call["action"] == "RunInstances" and call["instance_ids"]:
            parameters = call["parameters"]
            record.launch_calls.append(
                LaunchCall(
                    call["time"],
                    call["address"],
                    parameters.get("ClientToken", ""),
                    _tag(parameters, tags.LAUNCH),
                    int(parameters["MaxCount"]),
                    tuple(call["instance_ids"]),
                )
            )


def _tag(parameters: dict[str, str], key: str) -> str:
    for name, value in parameters.items():
        if value == key and name.endswith(".Key"):
            return parameters[name.removesuffix("Key") + "Value"]
    return ""


def read_history(endpoint: str, prefix: str) -> list[Written]:
    """Every change below the prefix since this etcd was set up, through its JSON gateway; nothing is ever compacted here."""
    start, end = _b64(prefix), _b64(prefix[:-1] + chr(ord(prefix[-1]) + 1))
    head = requests.post(f"{endpoint}/v3/kv/range", json={"key": start, "range_end": end}, timeout=TIMEOUT_S).json()
    newest = int(head["header"]["revision"])
    changes: list[Written] = []
    request = {"create_request": {"key": start, "range_end": end, "start_revision": 1, "progress_notify": True}}
    # What is older than the watch comes at once; a key of our own marks its end.
    marker = f"{prefix}~end-of-history"
    requests.post(f"{endpoint}/v3/kv/put", json={"key": _b64(marker), "value": ""}, timeout=TIMEOUT_S)
    with requests.post(f"{endpoint}/v3/watch", json=request, stream=True, timeout=TIMEOUT_S) as answer:
        for line in answer.iter_lines():
            for event in json.loads(line)["result"].get("events", ()):
                written = _written(event)
                if written.key == marker and written.revision > newest:
                    return changes
                if written.key != marker:
                    changes.append(written)
    raise AssertionError(f"etcd at {endpoint} ended its history before the end")


def _written(event: dict[str, Any]) -> Written:
    entry = event["kv"]
    deleted = event.get("type") == "DELETE"
    return Written(
        int(entry["mod_revision"]),
        base64.b64decode(entry["key"]).decode(),
        int(entry.get("create_revision", 0)),
        None if deleted else base64.b64decode(entry.get("value", "")).decode(),
    )


def runs_by_task(record: Record) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(record.runs, key=lambda run: run.began):
        found[run.task].append(run)
    return found


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _post(url: str, auth: tuple[str, str], body: dict[str, Any]) -> dict[str, Any]:
    answer = requests.post(url, json=body, auth=auth, timeout=TIMEOUT_S)
    answer.raise_for_status()
    data: dict[str, Any] = answer.json()["data"]
    return data
