"""An AWS account inside this process: moto, made repeatable and given EC2's states.

What it guarantees: the same seed and the same calls at the same times give the same ids, so a log of calls is the account's
whole state. For that, moto's source of randomness is seeded before each change and its clock for launches is replaced; both
are global in moto, hence one account per process and no call beside another (the caller holds a lock).
What it does not: private keys made by ``CreateKeyPair`` differ after a replay, since OpenSSL draws them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from scaler_plugin.localcloud.ec2.calls import Answer, Call
from scaler_plugin.localcloud.ec2.images import DEMO_IMAGE_ID, image

# moto reads these once, when it is imported. It validates no key pair when none is asked for only if its own check is off.
os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "1"
os.environ["MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION"] = "1"

from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance, StateReason
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix
from moto.moto_api._internal import mock_random
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.test import create_environ, run_wsgi_app

ACCOUNT_ID = "123456789012"

#: EC2's codes of the instance states.
STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}

USER_SHUTDOWN = "Client.UserInitiatedShutdown"


class RequestHandler(MotoRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: the journal has every call."""


class Account:
    def __init__(self, seed: str, images: Sequence[str] = ()) -> None:
        """``images`` are ids of machine images that exist besides the demo's own."""
        self._seed = seed
        self._images = dict.fromkeys((DEMO_IMAGE_ID, *images))
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._now = 0.0
        self._regions: dict[str, EC2Backend] = {}
        self._freed: set[str] = set()  # instances whose volumes and network interfaces moto has let go
        self._history: dict[str, list[tuple[float, str]]] = {}

    def perform(self, call: Call, number: int, now: float) -> Answer:
        """Let moto answer the call as if it were ``now``; ``number`` selects the ids that it will draw."""
        self._now = now
        self.region(call.region)
        mock_random.seed(f"{self._seed}:{number}")
        environ = create_environ(
            path=call.path,
            query_string=call.query,
            method=call.method,
            headers=list(call.headers),
            data=call.body,
        )
        chunks, status, headers = run_wsgi_app(self._moto, environ)
        kept = tuple(
            (name, value) for name, value in headers if name.lower() not in ("content-length", "server", "date")
        )
        return Answer(int(status.split()[0]), b"".join(chunks), kept)

    def region(self, name: str) -> EC2Backend:
        """EC2 in one region. A region comes into being at its first use, with the same default network each time."""
        if name not in self._regions:
            mock_random.seed(f"{self._seed}:{name}")
            backend = ec2_backends[ACCOUNT_ID][name]
            for ami_id in self._images:
                backend.amis[ami_id] = Ami(backend, **image(ami_id), region_name=name)
            self._give_states(backend)
            self._regions[name] = backend
        return self._regions[name]

    def key_names(self, region: str) -> set[str]:
        return {pair.key_name for pair in self.region(region).describe_key_pairs(key_names=[])}

    def zone_of_subnet(self, region: str, subnet_id: str) -> str | None:
        subnets = self.region(region).describe_subnets()
        return next((subnet.availability_zone for subnet in subnets if subnet.id == subnet_id), None)

    def instances(self) -> list[Instance]:
        return [i for b in self._regions.values() for r in b.reservations.values() for i in r.instances]

    def instance(self, instance_id: str) -> Instance | None:
        return next((i for i in self.instances() if i.id == instance_id), None)

    def set_state(self, instance: Instance, state: str, at: float, code: str = "", reason: str = "") -> None:
        """Move the instance into a state, with the reason that DescribeInstances then shows."""
        if state == "terminated" and instance.id not in self._freed:
            why = instance.state_reason, instance._reason
            instance.terminate()  # it says "User initiated", whoever began the shutdown
            instance.state_reason, instance._reason = why
            self._freed.add(instance.id)
        instance._state.name, instance._state.code = state, STATE_CODES[state]
        if code:
            instance.state_reason = StateReason(f"{code}: {reason}" if reason else code, code)
            instance._reason = f"{reason or code} ({_utc(at):%Y-%m-%d %H:%M:%S} GMT)"
        elif state in ("pending", "running"):
            instance.state_reason, instance._reason = StateReason(), ""
        self._history.setdefault(instance.id, []).append((at, state))

    def since(self, instance: Instance) -> float:
        """When the instance came into its present state."""
        return self._history[instance.id][-1][0]

    @contextmanager
    def as_of(self, at: float) -> Iterator[None]:
        """Show the instances as they were at an earlier time: those launched later are not listed."""
        reservations = [r for b in self._regions.values() for r in b.reservations.values()]
        kept = [(r, r.instances, [(i, i._state.name) for i in r.instances]) for r in reservations]
        try:
            for reservation, instances, _ in kept:
                visible = [(i, [s for t, s in self._history[i.id] if t <= at]) for i in instances]
                reservation.instances = [i for i, states in visible if states]
                for instance, states in visible:
                    if states:
                        instance._state.name, instance._state.code = states[-1], STATE_CODES[states[-1]]
            yield
        finally:
            for reservation, instances, states_before in kept:
                reservation.instances = instances
                for instance, state in states_before:
                    instance._state.name, instance._state.code = state, STATE_CODES[state]

    def _give_states(self, backend: EC2Backend) -> None:
        """moto starts and ends instances at once; EC2 answers ``pending`` and ``shutting-down``."""
        run, terminate, describe_tags = backend.run_instances, backend.terminate_instances, backend.describe_tags

        def run_instances(*args: Any, **kwargs: Any) -> Any:
            known = set(backend.reservations)
            try:
                reservation = run(*args, **kwargs)
            except Exception:
                # moto checks some parameters only after it has begun; EC2 starts all or nothing.
                for reservation_id in set(backend.reservations) - known:
                    del backend.reservations[reservation_id]
                raise
            template = kwargs.get("launch_template")
            said = backend._get_template_from_args(template).data if template else {}
            for instance in reservation.instances:
                if not kwargs.get("instance_initiated_shutdown_behavior"):  # moto reads it from the call only
                    behavior = said.get("InstanceInitiatedShutdownBehavior", "stop")
                    instance.instance_initiated_shutdown_behavior = behavior
                launched = _utc(self._now).replace(tzinfo=None)
                instance.launch_time = launched
                for part in (*instance.nics.values(), *instance.block_device_mapping.values()):
                    part.attach_time = launched
                self.set_state(instance, "pending", self._now)
            return reservation

        def terminate_instances(instance_ids: list[str]) -> Any:
            before = {i.id: i._state.name for i in backend.get_multi_instances_by_id(instance_ids)}
            ended = terminate(instance_ids)
            for instance, _ in ended:
                self._freed.add(instance.id)
                if before[instance.id] in ("shutting-down", "terminated"):
                    instance._state.name = before[instance.id]
                    instance._state.code = STATE_CODES[instance._state.name]
                else:
                    self.set_state(instance, "shutting-down", self._now, USER_SHUTDOWN, "User initiated shutdown")
            return ended

        def tags_of(filters: dict[str, list[str]] | None = None) -> list[dict[str, str]]:
            # moto looks through the tags of every resource for those of one, so listings cost the square of their length.
            if filters is None or list(filters) != ["resource-id"] or len(filters["resource-id"]) != 1:
                return describe_tags(filters)
            (resource_id,) = filters["resource-id"]
            kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(resource_id), "")
            tags = backend.tags.get(resource_id, {}).items()
            return [
                {"resource_id": resource_id, "key": key, "value": value, "resource_type": kind} for key, value in tags
            ]

        # Instance attributes in place of methods: moto's own handlers call them by name.
        backend.run_instances = run_instances  # type: ignore[method-assign]
        backend.terminate_instances = terminate_instances  # type: ignore[method-assign]
        backend.describe_tags = tags_of  # type: ignore[method-assign]


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, timezone.utc)
