"""The configuration in etcd: publishing it without overwriting somebody else's. It is followed by ``config_follower``.

Guarantees: only a valid configuration is written, with images by their ids; of two pushers at the same moment one is told.
"""

from __future__ import annotations

from typing import NamedTuple

from scaler_plugin.config.load import dump_json, parse_json
from scaler_plugin.config.pool_schema import is_image_id
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.config_follower import place_of
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

    Raises ``ConfigError`` if it belongs to another cluster or names an image by anything but its id, ``ScalerError`` if somebody
    pushed another one meanwhile.
    """
    if config.cluster != keys.cluster:
        raise ConfigError(
            f"The configuration is for cluster {config.cluster}, not for {keys.cluster}; nothing was written. Push it to its own."
        )
    for pool in config.pools:
        if not is_image_id(pool.ami):
            raise ConfigError(
                f"The image of pool {pool.name}, {pool.ami}, must be looked up first: leaders launch by ids. Nothing was written."
                " Publish with `scaler-sidecar config push`, which does it."
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


def parse_published(text: str, where: str, cluster: str) -> ScalerConfig:
    """The configuration out of its text in etcd. ``where`` begins the sentence of a ``ConfigError``."""
    config = parse_json(text, where)
    if config.cluster != cluster:
        raise ConfigError(f"{where} is for cluster {config.cluster}; push the one for {cluster}.")
    return config


def _parse(entry: Entry, keys: Keys) -> ScalerConfig:
    return parse_published(entry.value, place_of(entry), keys.cluster)
