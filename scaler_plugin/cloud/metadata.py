"""What EC2 tells an instance about itself: the port, the real adapter and its in-memory twin.

What the real one guarantees: it speaks IMDSv2 only (a token for every read), never goes through a proxy, and answers within
seconds. What it does not: a spot notice is EC2's best effort, two minutes ahead at most; nobody is told twice.

Source: "Instance metadata categories" in the EC2 user guide.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from time import monotonic
from typing import Protocol

from scaler_plugin.core.model import InstanceId, Market
from scaler_plugin.errors import CloudError, CloudRefused, CloudUnavailable

ENDPOINT_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
DEFAULT_ENDPOINT = "http://169.254.169.254"

#: The service is on the instance's own host: it answers in milliseconds or not at all.
TIMEOUT_S = 2.0
#: The longest life of a token that EC2 grants is six hours; a shorter one bounds what a stolen one is good for.
TOKEN_TTL_S = 3600


@dataclass(frozen=True)
class SpotInterruption:
    """EC2 takes the spot instance back: ``action`` is ``terminate``, ``stop`` or ``hibernate``, ``at`` when (epoch seconds)."""

    action: str
    at: float


@dataclass(frozen=True)
class ScheduledEvent:
    """Maintenance that EC2 has planned; ``code`` is e.g. ``instance-retirement``, ``state`` e.g. ``active``."""

    event_id: str
    code: str
    state: str
    not_before: float
    not_after: float | None = None
    description: str = ""


@dataclass(frozen=True)
class InstanceFacts:
    """All that the port can tell, as one value."""

    instance_id: InstanceId
    instance_type: str = "t3.micro"
    zone: str = "us-east-1a"
    region: str = "us-east-1"
    market: Market = Market.ON_DEMAND
    user_data: str = ""
    spot_interruption: SpotInterruption | None = None
    rebalance_recommended_at: float | None = None
    scheduled_events: tuple[ScheduledEvent, ...] = ()


class InstanceMetadata(Protocol):
    """Raises :class:`CloudUnavailable` when the service does not answer, which off EC2 is always."""

    def instance_id(self) -> InstanceId: ...

    def instance_type(self) -> str: ...

    def zone(self) -> str: ...

    def region(self) -> str: ...

    def market(self) -> Market: ...

    def user_data(self) -> str:
        """The plain text given at launch, empty if none was."""

    def spot_interruption(self) -> SpotInterruption | None:
        """The announced interruption, if there is one."""

    def rebalance_recommended_at(self) -> float | None:
        """When EC2 said that this spot instance is at elevated risk, if it has (epoch seconds)."""

    def scheduled_events(self) -> tuple[ScheduledEvent, ...]:
        """Maintenance events that are not over."""


class ImdsMetadata:
    """The instance metadata service at ``endpoint``; without one, where the AWS tools look for it too."""

    def __init__(self, endpoint: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._endpoint = (endpoint or os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT).rstrip("/")
        self._timeout_s = timeout_s
        # An http_proxy in the environment must not see (or answer) what is meant for the host.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._token = ""
        self._token_until = 0.0

    def instance_id(self) -> InstanceId:
        return InstanceId(self._known("meta-data/instance-id"))

    def instance_type(self) -> str:
        return self._known("meta-data/instance-type")

    def zone(self) -> str:
        return self._known("meta-data/placement/availability-zone")

    def region(self) -> str:
        return self._known("meta-data/placement/region")

    def market(self) -> Market:
        life_cycle = self._known("meta-data/instance-life-cycle")
        return Market.SPOT if life_cycle == "spot" else Market.ON_DEMAND

    def user_data(self) -> str:
        return self._read("user-data") or ""

    def spot_interruption(self) -> SpotInterruption | None:
        text = self._read("meta-data/spot/instance-action")
        if text is None:
            return None
        action, at = self._fields(text, "spot/instance-action", "action", "time")
        return SpotInterruption(action, _iso_time(at))

    def rebalance_recommended_at(self) -> float | None:
        text = self._read("meta-data/events/recommendations/rebalance")
        if text is None:
            return None
        (notice_time,) = self._fields(text, "events/recommendations/rebalance", "noticeTime")
        return _iso_time(notice_time)

    def scheduled_events(self) -> tuple[ScheduledEvent, ...]:
        text = self._read("meta-data/events/maintenance/scheduled")
        try:
            return tuple(
                ScheduledEvent(
                    event_id=event["EventId"],
                    code=event["Code"],
                    state=event["State"],
                    not_before=_event_time(event["NotBefore"]),
                    not_after=_event_time(event["NotAfter"]) if event.get("NotAfter") else None,
                    description=event.get("Description", ""),
                )
                for event in json.loads(text or "[]")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise self._garbled("events/maintenance/scheduled") from error

    def _known(self, path: str) -> str:
        """A value that every instance has."""
        text = self._read(path)
        if text is None:
            raise self._not_ec2(f"it knows no {path}")
        return text

    def _fields(self, text: str, path: str, *names: str) -> tuple[str, ...]:
        try:
            value = json.loads(text)
            return tuple(str(value[name]) for name in names)
        except (ValueError, KeyError, TypeError) as error:
            raise self._garbled(path) from error

    def _read(self, path: str) -> str | None:
        """The value at a path, ``None`` where there is none (404)."""
        for fresh in (False, True):
            status, text = self._request("GET", path, {"X-aws-ec2-metadata-token": self._valid_token(fresh)})
            # 401: the token is not known any more, e.g. after the instance was stopped and started.
            if status != 401:
                break
        if status == 404:
            return None
        if status != 200:
            raise self._refused(status)
        return text

    def _valid_token(self, fresh: bool) -> str:
        if fresh or monotonic() >= self._token_until:
            asked_at = monotonic()
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
            status, self._token = self._request("PUT", "api/token", ttl)
            if status != 200:
                raise self._refused(status)
            # Renewed early: a token must not expire on its way.
            self._token_until = asked_at + TOKEN_TTL_S * 0.9
        return self._token

    def _request(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        url = f"{self._endpoint}/latest/{path}"
        request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 - http is what the service speaks
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                return response.status, response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""
        except (OSError, HTTPException, ValueError) as error:
            raise self._not_ec2(str(getattr(error, "reason", error))) from error

    def _refused(self, status: int) -> CloudRefused | CloudUnavailable:
        if status in (401, 403):
            return CloudRefused(
                f"The instance metadata service at {self._endpoint} refuses (HTTP {status}). Switch it on for this instance: "
                "`aws ec2 modify-instance-metadata-options --http-endpoint enabled`.",
                str(status),
            )
        return CloudUnavailable(
            f"The instance metadata service at {self._endpoint} failed (HTTP {status}). It will be asked again.",
            str(status),
        )

    def _not_ec2(self, why: str) -> CloudUnavailable:
        return CloudUnavailable(
            f"This is not an EC2 instance, or its metadata service is not reachable at {self._endpoint}: {why.rstrip('.')}. "
            f"Run this on an instance, or set {ENDPOINT_VARIABLE}.",
            "NotEc2",
        )

    def _garbled(self, path: str) -> CloudUnavailable:
        return CloudUnavailable(
            f"The instance metadata service at {self._endpoint} gave something unreadable for {path}. It will be asked again."
        )


def own_region() -> str | None:
    """The region of the instance that this is, if it is one; boto3 takes credentials from the metadata service, but no region."""
    try:
        return ImdsMetadata().region()
    except CloudError:
        return None


class MemoryMetadata:
    """The twin: tells ``facts``, which may be replaced at any time; while ``reachable`` is false it raises."""

    def __init__(self, facts: InstanceFacts) -> None:
        self.facts = facts
        self.reachable = True

    def instance_id(self) -> InstanceId:
        return self._told().instance_id

    def instance_type(self) -> str:
        return self._told().instance_type

    def zone(self) -> str:
        return self._told().zone

    def region(self) -> str:
        return self._told().region

    def market(self) -> Market:
        return self._told().market

    def user_data(self) -> str:
        return self._told().user_data

    def spot_interruption(self) -> SpotInterruption | None:
        return self._told().spot_interruption

    def rebalance_recommended_at(self) -> float | None:
        return self._told().rebalance_recommended_at

    def scheduled_events(self) -> tuple[ScheduledEvent, ...]:
        return self._told().scheduled_events

    def _told(self) -> InstanceFacts:
        if not self.reachable:
            raise CloudUnavailable("The instance metadata service does not answer. It will be asked again.", "NotEc2")
        return self.facts


def _iso_time(text: str) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()
    except ValueError as error:
        raise CloudUnavailable(
            f"The instance metadata service gave {text!r} for a time. It will be asked again."
        ) from error


def _event_time(text: str) -> float:
    """Maintenance events are dated like ``21 Jan 2019 09:00:43 GMT``."""
    return parsedate_to_datetime(text).timestamp()
