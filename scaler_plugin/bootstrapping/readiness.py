"""Whether an instance that is launched now could become a node, beyond what the survey of the account says.

Guarantees: it changes nothing. What is certain to fail is refused, with the command that puts it right. etcd that cannot be seen
from here is no such thing: it need not be reachable from a person's desk.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from scaler_plugin.bootstrapping.activity import named
from scaler_plugin.bootstrapping.survey import Survey
from scaler_plugin.config.load import dump_json
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.published_config import read_config
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import Instance, NodeRole, PoolName
from scaler_plugin.errors import ConfigError
from scaler_plugin.status.wording import counted


def refuse_another(cluster: str, alive: Sequence[Instance], roles: Collection[NodeRole]) -> None:
    """Raise ``ConfigError`` if instances of one of these roles run: whoever leads among them launches what is needed."""
    found = [instance for instance in alive if instance.role in roles]
    if not found:
        return
    listed = named(f"{i.instance_id} ({i.pool or i.role.value}, {i.state.value})" for i in found)
    raise ConfigError(
        f"Nothing was launched: {counted(len(found), 'instance')} of cluster {cluster} {'run' if len(found) > 1 else 'runs'} "
        f"already: {listed}. One of them leads, or will, and launches what is needed: see `scaler-sidecar status`. "
        "--again launches one more."
    )


def refuse_missing_secrets(surveyed: Survey) -> None:
    """Raise ``ConfigError`` with each secret that nodes need and nobody has stored."""
    if surveyed.missing_secrets:
        lines = "\n".join(f"  - {sentence}" for sentence in surveyed.missing_secrets)
        raise ConfigError(f"Nothing was launched, because the instance could not start:\n{lines}")


def compare_with_published(
    config: ScalerConfig, pool: PoolName | None, store: Store, keys: Keys, file: str
) -> str | None:
    """A warning if etcd holds another configuration than ``file``, which is ``config`` with the ids of its images.

    Raises ``ConfigError`` if it holds none, or none with ``pool``, ``StoreError`` if it cannot be read.
    """
    push = f"scaler-sidecar config push {shlex.quote(file)}"
    published = read_config(store, keys)
    if published is None:
        raise ConfigError(
            f"Nothing was launched, because the instance could not start: etcd holds no configuration of cluster {keys.cluster}. "
            f"Publish it: {push}"
        )
    if pool is not None and published.config.pool(pool) is None:
        raise ConfigError(
            "Nothing was launched, because the instance could not start: the configuration in etcd "
            f"(revision {published.revision}) has no pool {pool}. Publish {file}: {push}"
        )
    if dump_json(published.config) == dump_json(config):
        return None
    return (
        f"The configuration in etcd (revision {published.revision}) is not that of {file}, and nodes go by the one in etcd. "
        f"`scaler-sidecar config show` prints it; to publish this file: {push}"
    )
