"""The instance metadata service of one local instance, on a port of loopback of its own.

What it guarantees: reads without a token, with an unknown or an expired one get 401, as IMDSv2 does; values are read from
their source at each request, so they may change; with a ``hop_limit`` answers live for so many hops, as EC2 does it. What it does
not: no IMDSv1; the credentials of a ``role`` never expire.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

from scaler_plugin.cloud.metadata import InstanceFacts, ScheduledEvent, SpotInterruption
from scaler_plugin.core.model import Market
from scaler_plugin.errors import HostError

#: The facts themselves, something to call for them, or a JSON file as :func:`write_facts` writes it.
Source: TypeAlias = InstanceFacts | Callable[[], InstanceFacts] | Path

LONGEST_TOKEN_S = 21600
ACCOUNT_ID = "123456789012"


@dataclass(frozen=True)
class RoleCredentials:
    """What the instance's role gives to whoever reaches this service."""

    role: str
    access_key: str
    secret_key: str
    session_token: str


class ImdsServer:
    def __init__(
        self,
        source: Source,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        role: RoleCredentials | None = None,
        hop_limit: int | None = None,
    ) -> None:
        self._source = source
        self._port = port
        self._host = host
        self._role = role
        self._hop_limit = hop_limit
        self._tokens: dict[str, float] = {}
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Answer from a thread of this process, and return the URL for ``AWS_EC2_METADATA_SERVICE_ENDPOINT``."""
        self._server = server = ThreadingHTTPServer((self._host, self._port), self._handler())
        server.daemon_threads = True
        if self._hop_limit is not None:  # accepted connections take it over
            server.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, self._hop_limit)
        self._port = server.server_address[1]
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()
        return f"http://{self._host}:{self._port}"

    def stop(self) -> None:
        """Close the port. Harmless when it is closed."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def forget_tokens(self) -> None:
        """Make every token given so far invalid."""
        self._tokens.clear()

    def new_token(self, ttl_text: str) -> str | None:
        if not (ttl_text.isdigit() and 1 <= int(ttl_text) <= LONGEST_TOKEN_S):
            return None
        token = secrets.token_urlsafe(24)
        self._tokens[token] = monotonic() + int(ttl_text)
        return token

    def accepts(self, token: str) -> bool:
        return monotonic() < self._tokens.get(token, 0.0)

    def value(self, path: str) -> str | None:
        """What stands at a path under ``/latest/``, ``None`` for nothing."""
        values = _values(self._facts()) | (_role_values(self._role) if self._role else {})
        return values.get(path.strip("/"))

    def _facts(self) -> InstanceFacts:
        if isinstance(self._source, InstanceFacts):
            return self._source
        return read_facts(self._source) if isinstance(self._source, Path) else self._source()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        imds = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                token = imds.new_token(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", ""))
                if self.path != "/latest/api/token":
                    self._say(404, "")
                else:
                    self._say(200 if token else 400, token or "")

            def do_GET(self) -> None:
                if not imds.accepts(self.headers.get("X-aws-ec2-metadata-token", "")):
                    self._say(401, "")
                    return
                value = imds.value(self.path.removeprefix("/latest/"))
                self._say(404 if value is None else 200, value or "")

            def _say(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: sidecars ask every few seconds."""

        return Handler


def write_facts(path: Path, facts: InstanceFacts) -> None:
    """Write the JSON file that an :class:`ImdsServer` reads; a reader sees the old or the new one, never half of it."""
    spot = facts.spot_interruption
    value = {
        **facts.__dict__,
        "market": facts.market.value,
        "spot_interruption": spot.__dict__ if spot else None,
        "scheduled_events": [event.__dict__ for event in facts.scheduled_events],
    }
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(value, indent=1))
    beside.replace(path)


def read_facts(path: Path) -> InstanceFacts:
    try:
        value = json.loads(path.read_text())
        spot = value.pop("spot_interruption", None)
        return InstanceFacts(
            **{
                **value,
                "market": Market(value.get("market", Market.ON_DEMAND.value)),
                "spot_interruption": SpotInterruption(**spot) if spot else None,
                "scheduled_events": tuple(ScheduledEvent(**event) for event in value.get("scheduled_events", ())),
            }
        )
    except (OSError, ValueError, TypeError) as error:
        raise HostError(
            f"The instance facts in {path} cannot be read: {error}. Write them with write_facts."
        ) from error


def _values(facts: InstanceFacts) -> dict[str, str]:
    on_demand = facts.market is Market.ON_DEMAND
    identity = {
        "accountId": ACCOUNT_ID,
        "availabilityZone": facts.zone,
        "instanceId": facts.instance_id,
        "instanceType": facts.instance_type,
        "region": facts.region,
    }
    values = {
        "meta-data/instance-id": facts.instance_id,
        "meta-data/instance-type": facts.instance_type,
        "meta-data/instance-life-cycle": "on-demand" if on_demand else "spot",
        "meta-data/placement/availability-zone": facts.zone,
        "meta-data/placement/region": facts.region,
        "meta-data/events/maintenance/scheduled": json.dumps([_event(event) for event in facts.scheduled_events]),
        "dynamic/instance-identity/document": json.dumps(identity, indent=2),
    }
    if facts.user_data:
        values["user-data"] = facts.user_data
    if facts.spot_interruption:
        action = {"action": facts.spot_interruption.action, "time": _iso(facts.spot_interruption.at)}
        values["meta-data/spot/instance-action"] = json.dumps(action)
    if facts.rebalance_recommended_at is not None:
        notice = {"noticeTime": _iso(facts.rebalance_recommended_at)}
        values["meta-data/events/recommendations/rebalance"] = json.dumps(notice)
    return values


def _role_values(role: RoleCredentials) -> dict[str, str]:
    folder = "meta-data/iam/security-credentials"
    credentials = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": role.access_key,
        "SecretAccessKey": role.secret_key,
        "Token": role.session_token,
        "LastUpdated": "2026-01-01T00:00:00Z",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    return {folder: role.role, f"{folder}/{role.role}": json.dumps(credentials)}


def _event(event: ScheduledEvent) -> dict[str, str]:
    value = {
        "EventId": event.event_id,
        "Code": event.code,
        "State": event.state,
        "NotBefore": _event_date(event.not_before),
        "Description": event.description,
    }
    return value if event.not_after is None else {**value, "NotAfter": _event_date(event.not_after)}


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _event_date(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%d %b %Y %H:%M:%S GMT")
