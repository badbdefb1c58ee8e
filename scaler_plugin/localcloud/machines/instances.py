"""EC2 as the machine layer sees it: which instances there shall be, and telling it what became of them.

Two ways: the double's own endpoints, and for another endpoint that speaks EC2 without machines behind it (moto's plain server)
the API itself, where an instance that shuts down can only be reported by terminating it.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Protocol

from scaler_plugin.cloud import tags
from scaler_plugin.core.model import Market

TIMEOUT_S = 3.0


class Ec2Away(Exception):
    """EC2 does not answer; machines go on, and are reported when it is back."""


@dataclass(frozen=True)
class WantedInstance:
    """An instance as EC2 lists it. ``wants_power``: it was launched and its machine has not been reported yet."""

    instance_id: str
    state: str
    instance_type: str
    zone: str
    region: str
    market: Market
    wants_power: bool


class Instances(Protocol):
    """Every method raises :class:`Ec2Away`."""

    def listed(self) -> list[WantedInstance]: ...

    def user_data(self, instance_id: str) -> str: ...

    def booted(self, instance_id: str) -> None: ...

    def shutting_down(self, instance_id: str) -> None:
        """Its system has begun to shut down by itself."""

    def ended(self, instance_id: str, lost_power: bool) -> None:
        """No process of it lives any more."""

    def console(self, instance_id: str, text: bytes) -> None: ...


class DoubleInstances:
    """Through the control endpoints of :mod:`scaler_plugin.localcloud.ec2`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._user_data: dict[str, str] = {}
        # A proxy in the environment has no business on loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers(self) -> bool:
        """Whether there is a double at this address."""
        try:
            return isinstance(json.loads(self._ask("/_instances")), list)
        except (Ec2Away, ValueError):
            return False

    def listed(self) -> list[WantedInstance]:
        described = json.loads(self._ask("/_instances"))
        self._user_data = {one["id"]: one["user_data"] for one in described}
        return [
            WantedInstance(
                one["id"],
                one["state"],
                one["instance_type"],
                one["zone"],
                one["region"],
                Market(one["market"]),
                one["state"] == "pending",
            )
            for one in described
        ]

    def user_data(self, instance_id: str) -> str:
        return self._user_data.get(instance_id, "")

    def booted(self, instance_id: str) -> None:
        self._move(instance_id, "running")

    def shutting_down(self, instance_id: str) -> None:
        self._ask(f"/_instances/{instance_id}/shutdown", b"{}")

    def ended(self, instance_id: str, lost_power: bool) -> None:
        if lost_power:
            self._move(instance_id, "terminated", "Server.InternalError", "The machine lost power")
            return
        state = next((i.state for i in self.listed() if i.instance_id == instance_id), "terminated")
        self._move(instance_id, "stopped" if state == "stopping" else "terminated")

    def console(self, instance_id: str, text: bytes) -> None:
        self._ask(f"/_instances/{instance_id}/console", text)

    def _move(self, instance_id: str, state: str, code: str = "", reason: str = "") -> None:
        body = {"state": state, "code": code, "reason": reason}
        self._ask(f"/_instances/{instance_id}/state", json.dumps(body).encode())

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self._url + path, body, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            # It has no such instance, or one that is terminated: nothing to report then.
            return error.read() if error.code < 500 else b"[]"
        except OSError as error:
            raise Ec2Away(str(error)) from error


class ApiInstances:
    """Through EC2's own API: the instances that carry the cluster's tag."""

    def __init__(self, client: Any, cluster: str) -> None:
        """``client`` is boto3's for EC2."""
        self._client = client
        self._cluster = cluster
        self._reported: set[str] = set()

    def listed(self) -> list[WantedInstance]:
        filters = [{"Name": f"tag:{tags.CLUSTER}", "Values": [self._cluster]}]
        pages = self._ask(
            lambda: list(self._client.get_paginator("describe_instances").paginate(Filters=filters, MaxResults=100))
        )
        return [self._wanted(i) for page in pages for r in page["Reservations"] for i in r["Instances"]]

    def user_data(self, instance_id: str) -> str:
        answer = self._ask(
            lambda: self._client.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
        )
        return base64.b64decode(answer.get("UserData", {}).get("Value", "")).decode()

    def booted(self, instance_id: str) -> None:
        self._reported.add(instance_id)

    def shutting_down(self, instance_id: str) -> None:
        """Reported as a termination: an instance of ours is launched to terminate when it shuts down."""
        self._ask(lambda: self._client.terminate_instances(InstanceIds=[instance_id]))

    def ended(self, instance_id: str, lost_power: bool) -> None:
        self._ask(lambda: self._client.terminate_instances(InstanceIds=[instance_id]))

    def console(self, instance_id: str, text: bytes) -> None:
        """EC2 has no call for it; the console stays in the machine's folder."""

    def _wanted(self, described: Any) -> WantedInstance:
        state, zone = described["State"]["Name"], described["Placement"]["AvailabilityZone"]
        return WantedInstance(
            described["InstanceId"],
            state,
            described["InstanceType"],
            zone,
            zone.rstrip("abcdef"),
            Market.SPOT if described.get("InstanceLifecycle") == "spot" else Market.ON_DEMAND,
            state in ("pending", "running") and described["InstanceId"] not in self._reported,
        )

    @staticmethod
    def _ask(call: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            return call()
        except (BotoCoreError, ClientError) as error:
            raise Ec2Away(str(error)) from error
