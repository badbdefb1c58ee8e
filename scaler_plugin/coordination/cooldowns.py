"""Pools that pause after failed launches (``cooldowns/<pool>``), kept in etcd so that a new leader pauses too."""

from __future__ import annotations

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.malformed import decode_all
from scaler_plugin.coordination.store import Delete, Put, Store
from scaler_plugin.core.model import PoolName
from scaler_plugin.core.observation import Cooldown


def read_cooldowns(store: Store, keys: Keys) -> tuple[Cooldown, ...]:
    """Every pool's cooldown, over or not: one that is over still counts its failures. A malformed one counts as none."""
    return decode_all(Cooldown, store.get_prefix(keys.cooldowns))


def put_cooldown(election: Election, keys: Keys, cooldown: Cooldown) -> None:
    election.fenced([Put(keys.cooldown(cooldown.pool), encode(cooldown))])


def clear_cooldown(election: Election, keys: Keys, pool: PoolName) -> None:
    election.fenced([Delete(keys.cooldown(pool))])
