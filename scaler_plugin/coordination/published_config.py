"""The configuration in etcd: publishing it without overwriting somebody else's, and following it.

Guarantees: only a valid configuration is written; of two pushers at the same moment one is told. A follower always has the
last good configuration: a malformed one in etcd (written by other means, or by a newer version) changes nothing and is
named in ``problem``.
"""

from __future__ import annotations

from typing import NamedTuple

from scaler_plugin.config.load import dump_json, parse_json
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Entry, ModifiedAt, Put, Store
from scaler_plugin.errors import ConfigError, ScalerError


class PublishedConfig(NamedTuple):
    config: ScalerConfig
    revision: int  # the key's mod revision in etcd


def read_config(store: Store, keys: Keys) -> PublishedConfig | None:
    """The published configuration, or ``None`` if there is none. Raises ``ConfigError`` if it is malformed."""
    entry = store.get(keys.config)
    return None if entry is None else PublishedConfig(_parse(entry, keys), entry.mod_revision)


def push_config(store: Store, keys: Keys, config: ScalerConfig) -> int:
    """Publish the configuration and return its revision; one that is there already is not written again.

    Raises ``ConfigError`` if it belongs to another cluster, ``ScalerError`` if somebody pushed another one meanwhile.
    """
    if config.cluster != keys.cluster:
        raise ConfigError(
            f"The configuration is for cluster {config.cluster}, not for {keys.cluster}; nothing was written. Push it to its own."
        )
    text = dump_json(config)
    entry = store.get(keys.config)
    if entry is not None and entry.value == text:
        return entry.mod_revision
    read_at = entry.mod_revision if entry else 0
    outcome = store.transact([ModifiedAt(keys.config, read_at)], [Put(keys.config, text)])
    if outcome.succeeded:
        return outcome.revision
    raise ScalerError(
        f"Somebody else pushed a configuration for cluster {keys.cluster} at the same moment; nothing was written."
        " Look at theirs with `scaler-sidecar config show`, then push again."
    )


def _parse(entry: Entry, keys: Keys) -> ScalerConfig:
    where = f"The configuration in etcd ({entry.key}, revision {entry.mod_revision})"
    config = parse_json(entry.value, where)
    if config.cluster != keys.cluster:
        raise ConfigError(f"{where} is for cluster {config.cluster}; push the one for {keys.cluster}.")
    return config


class ConfigFollower:
    """What a node or a leader goes by: the newest valid configuration, read anew at every call of :meth:`current`."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        # What was read last, good or bad. The text too: in an etcd that was set up anew, revisions begin again.
        self._seen: tuple[int, str] | None = None
        self._good: PublishedConfig | None = None
        self._problem: str | None = None

    @property
    def last_good(self) -> PublishedConfig | None:
        """What was read last and was valid, without asking etcd."""
        return self._good

    @property
    def problem(self) -> str | None:
        """Why the last good configuration is not the one in etcd, as a sentence; ``None`` when it is."""
        return self._problem

    def current(self) -> ScalerConfig:
        """Read etcd (one key) and return the newest valid configuration.

        Raises ``StoreError`` when etcd cannot be read, and ``ConfigError`` while there has been no valid configuration yet.
        """
        entry = self._store.get(self._keys.config)
        seen = (entry.mod_revision, entry.value) if entry else (0, "")
        if seen != self._seen:
            self._read(entry)
            self._seen = seen
        if self._good is None:
            raise ConfigError(self._problem or "")
        return self._good.config

    def _read(self, entry: Entry | None) -> None:
        if entry is None:
            self._problem = (
                f"No configuration is published for cluster {self._keys.cluster} ({self._keys.config});"
                " push one with `scaler-sidecar config push scaler.yaml`."
            )
            return
        try:
            self._good = PublishedConfig(_parse(entry, self._keys), entry.mod_revision)
            self._problem = None
        except ConfigError as error:
            self._problem = str(error)
