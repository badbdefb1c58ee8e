"""From a request to its answer, without any HTTP: find the endpoint, let the caller in, check, do, wrap.

The order of the checks is the real server's: path, endpoint, credentials, body, fields.
"""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import parse_qs

from scaler_plugin.localcloud.clearml_api import (
    events,
    projects,
    queues,
    server_info,
    task_parts,
    task_queries,
    task_status,
    tasks,
)
from scaler_plugin.localcloud.clearml_api import workers as workers_module
from scaler_plugin.localcloud.clearml_api.answers import API_VERSION, ApiError, Document, envelope
from scaler_plugin.localcloud.clearml_api.call import Call, Endpoint
from scaler_plugin.localcloud.clearml_api.credentials import Credentials
from scaler_plugin.localcloud.clearml_api.state import State

ENDPOINTS: dict[str, Endpoint] = {
    **server_info.ENDPOINTS,
    **queues.ENDPOINTS,
    **tasks.ENDPOINTS,
    **task_queries.ENDPOINTS,
    **task_status.ENDPOINTS,
    **task_parts.ENDPOINTS,
    **workers_module.ENDPOINTS,
    **events.ENDPOINTS,
    **projects.ENDPOINTS,
}

PATH = re.compile(r"/(?:v(?P<version>\d+\.\d+)/)?(?P<action>\w+\.\w+)")
BAD_BODY = "The browser (or proxy) sent a request that this server could not understand."


@dataclass(frozen=True)
class Request:
    """What came in over the wire."""

    path: str
    query: str
    body: bytes
    authorization: str | None = None
    content_type: str = ""
    caller: str = ""
    address: str = "127.0.0.1"

    @property
    def action(self) -> str:
        """The action the path names, or "" when it names none."""
        match = PATH.fullmatch(self.path)
        return match["action"] if match else ""


@dataclass(frozen=True)
class Answer:
    """Status and JSON body, and what the journal should know: the caller's worker and the task."""

    status: int
    body: bytes
    worker: str = ""
    task: str = ""


class Dispatcher:
    """All endpoints on one state. Thread-safe: calls are answered one after the other."""

    def __init__(self, state: State, credentials: Credentials, clock: Callable[[], float] = time.time) -> None:
        self.state = state
        self.credentials = credentials
        self._clock = clock
        with state.transaction():
            queues.default_queue_id(self.new_call("startup"))

    def new_call(self, action: str, version: str = API_VERSION, data: Document | None = None) -> Call:
        """A call of the server's own, or the beginning of one from outside."""
        major, minor = version.split(".")
        return Call(
            action=action,
            version=(int(major), int(minor)),
            data={} if data is None else data,
            state=self.state,
            now=datetime.fromtimestamp(self._clock(), timezone.utc),
            new_token=self.credentials.new_token,
        )

    def answer(self, request: Request) -> Answer:
        """The answer to a request; refusals are answers too."""
        match = PATH.fullmatch(request.path)
        if match is None:
            error = ApiError(400, 0, f"Invalid request path {request.path}")
            return _answer(envelope(None, 1.0, None, error=error), 400)
        action, version = match["action"], match["version"] or API_VERSION
        endpoint = ENDPOINTS.get(action)
        call = self.new_call(action, version)
        if endpoint is None or call.version < endpoint.since_version:
            shown = 1.0 if version == "1.0" else version
            error = ApiError(404, 0, f"Unable to find endpoint for name {action} and version {version}")
            return _answer(envelope(action, shown, None, error=error), 404)
        call.caller, call.address = request.caller, request.address
        data: Document = {}
        failure: ApiError | None = None
        encoded = b""
        try:
            if not endpoint.public:
                self.credentials.check(request.authorization)
            _read_body(request, endpoint, call)
            endpoint.check(call.data)
            with self.state.transaction():
                data = endpoint.handler(call)
                # Inside, as the answer may hold parts of documents that the next call changes.
                encoded = json.dumps(envelope(action, version, endpoint.since, data)).encode()
        except ApiError as error:
            failure = error
        except Exception as error:  # a request of a shape nobody foresaw must not look like a lost connection
            traceback.print_exc()
            failure = ApiError(500, 0, f"General error ({error!r})")
        if failure:
            encoded = json.dumps(envelope(action, version, endpoint.since, error=failure)).encode()
        first = call.batch[0] if call.batch else call.data
        worker, task = first.get("worker"), first.get("task") or _popped(data)
        return Answer(failure.status if failure else 200, encoded, str(worker or request.caller), str(task or ""))


def _popped(data: Document) -> str:
    """The task that get_next_task handed out."""
    entry = data.get("entry")
    return str(entry["task"]) if isinstance(entry, dict) else ""


def _answer(body: Document, status: int) -> Answer:
    return Answer(status, json.dumps(body).encode())


def _read_body(request: Request, endpoint: Endpoint, call: Call) -> None:
    """Fill the call's data from query string and JSON body (on GET too), or its batch from JSON lines."""
    try:
        if endpoint.batch or request.content_type.startswith("application/json-lines"):
            call.batch = [json.loads(line) for line in request.body.decode().splitlines() if line.strip()]
            if not all(isinstance(item, dict) for item in call.batch):
                raise ValueError
            return
        body = json.loads(request.body) if request.body.strip() else {}
    except ValueError:
        raise ApiError(400, 0, BAD_BODY) from None
    if not isinstance(body, dict):
        raise ApiError(500, 0, "Data should be a dict")
    for name, values in parse_qs(request.query).items():
        call.data[name.removesuffix("[]")] = values if name.endswith("[]") else values[-1]
    call.data.update(body)
