"""Looks at ClearML, EC2 and etcd at intervals and keeps what only the sequence of looks tells: who led when, what ended when.

A server that does not answer leaves its last picture standing; nothing is ever concluded from silence.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from scaler_plugin.cloud import tags
from scaler_plugin.coordination.election import read_leader
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.coordination.store import Store
from scaler_plugin.errors import StoreError, TaskServerError
from scaler_plugin.localcloud.demo.scene import InstanceSeen, Scene, TaskSeen, TermSeen

#: EC2's codes of why an instance ended (``StateReason.Code``).
_ENDED_BY = {"Client.InstanceInitiatedShutdown": "guest", "Client.UserInitiatedShutdown": "api"}


class Watcher:
    """``began_at`` (seconds since the epoch) is the zero of all times."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        ec2_client: Any,
        look_at_tasks: Callable[[], tuple[TaskSeen, ...]],
        began_at: float,
        servers_every_s: float,
    ) -> None:
        self._store = store
        self._keys = keys
        self._ec2 = ec2_client
        self._look_at_tasks = look_at_tasks
        self._began_at = began_at
        self._servers_every_s = servers_every_s
        self._servers_at = float("-inf")
        self._scene = Scene(0.0)

    def look(self, everything: bool = False) -> Scene:
        """The present scene. Servers that count calls are asked at their own interval, unless ``everything`` is wanted."""
        now = time.time() - self._began_at
        away = set()
        scene = replace(self._scene, at_s=round(now, 2))
        try:
            scene = replace(scene, terms=self._terms(now), nodes=read_nodes(self._store, self._keys))
        except StoreError:
            away.add("etcd")
        if everything or now - self._servers_at >= self._servers_every_s:
            self._servers_at = now
            try:
                scene = replace(scene, tasks=self._look_at_tasks())
            except TaskServerError:
                away.add("ClearML")
            instances = self._instances(now)
            if instances is None:
                away.add("EC2")
            else:
                scene = replace(scene, instances=instances)
        else:
            away |= self._scene.away - {"etcd"}
        self._scene = replace(scene, away=frozenset(away))
        return self._scene

    def _terms(self, now: float) -> tuple[TermSeen, ...]:
        leader = read_leader(self._store, self._keys)
        current = leader.term if leader else None
        terms = [
            term if term.to_s is not None or term.term == current else replace(term, to_s=round(now, 2))
            for term in self._scene.terms
        ]
        if leader is not None and all(term.term != leader.term for term in terms):
            terms.append(TermSeen(leader.candidate, leader.term, round(max(0.0, leader.since - self._began_at), 2)))
        return tuple(terms)

    def _instances(self, now: float) -> tuple[InstanceSeen, ...] | None:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        filters = [{"Name": f"tag:{tags.CLUSTER}", "Values": [self._keys.cluster]}]
        try:
            pages = self._ec2.get_paginator("describe_instances").paginate(Filters=filters)
            described = [i for page in pages for r in page["Reservations"] for i in r["Instances"]]
        except (BotoCoreError, ClientError):
            return None
        known = {instance.id: instance for instance in self._scene.instances}
        listed = {i["InstanceId"]: _seen(i, known.get(i["InstanceId"]), round(now, 2)) for i in described}
        # EC2 forgets terminated instances after a while; the report does not.
        return tuple({**known, **listed}.values())


def _seen(described: Any, before: InstanceSeen | None, now: float) -> InstanceSeen:
    state = described["State"]["Name"]
    pool = next((tag["Value"] for tag in described.get("Tags", ()) if tag["Key"] == tags.POOL), "")
    seen = before or InstanceSeen(described["InstanceId"], pool, state, now)
    if state == "terminated" and seen.ended_s is None:
        code = (described.get("StateReason") or {}).get("Code", "")
        return replace(seen, state=state, ended_s=now, ended_by=_ENDED_BY.get(code, "ec2"))
    return replace(seen, state=state)
