"""How each pool's instances start (``starts/<pool>``), kept in etcd so that a new leader counts on. See ``core.breaker``."""

from __future__ import annotations

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.malformed import decode_all
from scaler_plugin.coordination.store import Delete, Put, Store
from scaler_plugin.core.breaker import StartRecord
from scaler_plugin.core.model import PoolName


def read_start_records(store: Store, keys: Keys) -> tuple[StartRecord, ...]:
    """Every pool's record. A malformed one counts as none."""
    return decode_all(StartRecord, store.get_prefix(keys.starts))


def put_start_record(election: Election, keys: Keys, record: StartRecord) -> None:
    election.fenced([Put(keys.start(record.pool), encode(record))])


def clear_start_record(election: Election, keys: Keys, pool: PoolName) -> None:
    election.fenced([Delete(keys.start(pool))])
