"""The double's own endpoints, all under ``/_``: faults, the journal, and what the machine layer needs.

=======  ==============================  ==============================================================================
GET      ``/_instances``                 every instance with its decoded user-data and tags
POST     ``/_instances/<id>/state``      ``{"state": "running"|"shutting-down"|"terminated"|…, "code": "", "reason": ""}``
POST     ``/_instances/<id>/shutdown``   the guest shuts down: ``shutting-down`` or ``stopping``, as its launch asked for
POST     ``/_instances/<id>/console``    the body is the whole console so far; its last 64 kB are kept
GET      ``/_journal``                   every call; ``?action=RunInstances&since=<epoch seconds>`` selects
GET      ``/_faults``                    the faults in force
POST     ``/_faults``                    add one fault or a list of them (see ``faults.Fault``)
DELETE   ``/_faults``                    clear them
=======  ==============================  ==============================================================================
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from scaler_plugin.errors import ConfigError
from scaler_plugin.localcloud.ec2.calls import Answer
from scaler_plugin.localcloud.ec2.faults import Fault

if TYPE_CHECKING:
    from scaler_plugin.localcloud.ec2.double import Ec2Double

STATES = ("pending", "running", "shutting-down", "terminated", "stopping", "stopped")


class Control:
    def __init__(self, double: Ec2Double) -> None:
        self._double = double

    def answer(self, environ: dict[str, Any]) -> Answer:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
        try:
            return self._route(environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").split("/"), query, body)
        except (ConfigError, ValueError, TypeError) as wrong:
            return _json({"error": str(wrong)}, 400)

    def _route(self, method: str, path: list[str], query: dict[str, str], body: bytes) -> Answer:
        match method, path:
            case "GET", ["_instances"]:
                return _json([_described(instance) for instance in self._double.instances()])
            case "GET", ["_journal"]:
                return _json(self._double.journal.entries(query.get("action"), float(query.get("since", 0))))
            case "GET", ["_faults"]:
                return _json([asdict(fault) for fault in self._double.faults.listed()])
            case "POST", ["_faults"]:
                given = json.loads(body)
                now = self._double.now()
                self._double.faults.add(
                    [Fault.from_json(f, now) for f in (given if isinstance(given, list) else [given])]
                )
                return _json({})
            case "DELETE", ["_faults"]:
                self._double.faults.clear()
                return _json({})
            case "POST", ["_instances", instance_id, what]:
                return self._about_instance(instance_id, what, body)
        return _json({"error": f"there is no {method} /{'/'.join(path)} here"}, 404)

    def _about_instance(self, instance_id: str, what: str, body: bytes) -> Answer:
        instance = next((i for i in self._double.instances() if i.id == instance_id), None)
        if instance is None:
            return _json({"error": f"there is no instance {instance_id}"}, 404)
        match what:
            case "console":
                self._double.write_console(instance_id, body)
                return _json({})
            case "shutdown":
                ending = "stopping" if instance.instance_initiated_shutdown_behavior == "stop" else "shutting-down"
                code = "Client.InstanceInitiatedShutdown"
                return self._moved(instance_id, ending, code, "Instance initiated shutdown")
            case "state":
                wanted = json.loads(body)
                if wanted.get("state") not in STATES:
                    raise ValueError(f"`state` must be one of {', '.join(STATES)}, not {wanted.get('state')!r}")
                return self._moved(instance_id, wanted["state"], wanted.get("code", ""), wanted.get("reason", ""))
        return _json({"error": f"an instance has no {what}"}, 404)

    def _moved(self, instance_id: str, state: str, code: str, reason: str) -> Answer:
        if not self._double.move(instance_id, state, code, reason):
            return _json({"error": f"{instance_id} is terminated and stays so"}, 409)
        return _json({"id": instance_id, "state": state})


def _described(instance: Any) -> dict[str, Any]:
    return {
        "id": instance.id,
        "state": instance.state,
        "reason_code": instance.state_reason.code,
        "reason": instance.state_reason.message,
        "instance_type": instance.instance_type,
        "market": "spot" if instance.lifecycle == "spot" else "on-demand",
        "zone": instance.availability_zone,
        "region": instance.region_name,
        "image_id": instance.image_id,
        "launched_at": instance.launch_time.replace(tzinfo=timezone.utc).timestamp(),
        "shutdown_behavior": instance.instance_initiated_shutdown_behavior,
        "private_ip": instance.private_ip,
        "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
        "user_data": instance.user_data.decode() if instance.user_data else "",
    }


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), (("Content-Type", "application/json"),))
