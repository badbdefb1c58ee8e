"""Reads all of a cluster's records from etcd at once, so that they fit together.

One ranged read (in pages, all as of one revision) is the whole cost, and needs no right but to read. A record that cannot be
understood is named in ``malformed`` and left out: a status that shows everything else is worth more than none.

Imports neither the registry nor the leader's parts: this is the path of a command that must answer at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from scaler_plugin.coordination.codec import decode
from scaler_plugin.coordination.election import LeaderRecord, leader_record
from scaler_plugin.coordination.events import Event
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_book import decode_launch
from scaler_plugin.coordination.store import Entry, Store
from scaler_plugin.core.breaker import StartRecord
from scaler_plugin.core.handback import Handback
from scaler_plugin.core.model import InstanceId, Launch, LaunchId, Node
from scaler_plugin.core.observation import Cooldown
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.requests import DrainRequest, ProtectRequest
from scaler_plugin.core.view import View
from scaler_plugin.errors import ScalerError

T = TypeVar("T")


@dataclass(frozen=True)
class Malformed:
    """A record that can't be understood, and why, as a sentence that names its key. ``kind`` is the first part of that key."""

    kind: str
    sentence: str


@dataclass(frozen=True)
class ClusterRecords:
    """What etcd held at one revision.

    ``config_revision`` is ``None`` while no configuration is published. ``policy`` is read from the configuration only when no
    leader has ever published a view, which otherwise says the same. ``empty``: there was no key at all.
    """

    cluster: str
    root: str
    leader: LeaderRecord | None = None
    view: View | None = None
    nodes: tuple[Node, ...] = ()
    launches: tuple[Launch, ...] = ()
    cooldowns: tuple[Cooldown, ...] = ()
    events: tuple[Event, ...] = ()
    config_revision: int | None = None
    policy: ClusterPolicy | None = None
    malformed: tuple[Malformed, ...] = ()
    empty: bool = False

    @cached_property
    def node_ids(self) -> frozenset[InstanceId]:
        return frozenset(node.instance_id for node in self.nodes)

    @property
    def probe_every_s(self) -> float | None:
        """How often a schedule launches a probe; ``None`` where none does, or nobody says."""
        said = self.view or self.policy
        return said.probe_every_s if said else None

    @cached_property
    def registered_of(self) -> Counter[LaunchId | None]:
        """How many nodes each launch has brought forth."""
        return Counter(node.identity.launch_id for node in self.nodes)


def read_cluster(store: Store, keys: Keys) -> ClusterRecords:
    """Everything that status shows. Raises :class:`~scaler_plugin.errors.StoreError` when etcd cannot be used."""
    return sort_records(store.get_prefix(keys.root), keys)


def sort_records(entries: Sequence[Entry], keys: Keys) -> ClusterRecords:
    """The keys of one cluster as the records that they are."""
    sorting = _Sorting(keys)
    single = {entry.key: entry for entry in entries if entry.key in (keys.leader, keys.view, keys.config)}
    leader_entry, config = single.get(keys.leader), single.get(keys.config)
    view = sorting.one(View, single.get(keys.view))
    for kind, prefix in ((StartRecord, keys.starts), (Handback, keys.handbacks)):
        sorting.all(kind, entries, prefix)  # not shown, but people must hear of one that nobody can act on
    for entry in entries:
        if entry.key.startswith(keys.node_requests):
            sorting.one(DrainRequest if entry.key.endswith("/drain") else ProtectRequest, entry)
    return ClusterRecords(
        cluster=keys.cluster,
        root=keys.root,
        leader=sorting.leader(leader_entry),
        view=view,
        nodes=sorting.all(Node, entries, keys.nodes),
        launches=sorting.launches(entries),
        cooldowns=sorting.all(Cooldown, entries, keys.cooldowns),
        events=sorting.all(Event, entries, keys.events),
        config_revision=config.mod_revision if config else None,
        policy=sorting.policy(config) if view is None else None,
        malformed=tuple(sorting.malformed),
        empty=not entries,
    )


class _Sorting:
    """Decodes, and collects the sentence about each record that does not decode."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.malformed: list[Malformed] = []

    def one(self, kind: type[T], entry: Entry | None) -> T | None:
        return self._try(lambda entry: decode(kind, entry.value, entry.key), entry)

    def all(self, kind: type[T], entries: Sequence[Entry], prefix: str) -> tuple[T, ...]:
        decoded = (self.one(kind, entry) for entry in entries if entry.key.startswith(prefix))
        return tuple(record for record in decoded if record is not None)

    def launches(self, entries: Sequence[Entry]) -> tuple[Launch, ...]:
        found = (entry for entry in entries if entry.key.startswith(self._keys.launches))
        decoded = (self._try(lambda entry: decode_launch(entry, self._keys), entry) for entry in found)
        return tuple(launch for launch in decoded if launch is not None)

    def leader(self, entry: Entry | None) -> LeaderRecord | None:
        return self._try(leader_record, entry)

    def policy(self, entry: Entry | None) -> ClusterPolicy | None:
        if entry is None:
            return None
        # The schema costs 0.1 s to import, and this is needed only before the cluster's first leader.
        from scaler_plugin.config.load import parse_json  # noqa: PLC0415
        from scaler_plugin.config.policy import cluster_policy  # noqa: PLC0415

        return self._try(
            lambda entry: cluster_policy(parse_json(entry.value, f"The configuration in etcd ({entry.key})")), entry
        )

    def _try(self, read: Callable[[Entry], T], entry: Entry | None) -> T | None:
        if entry is None:
            return None
        try:
            return read(entry)
        except ScalerError as error:
            kind = entry.key.removeprefix(self._keys.root).partition("/")[0]
            self.malformed.append(Malformed(kind, str(error)))
            return None
