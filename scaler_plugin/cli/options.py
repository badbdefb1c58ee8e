"""Options that several commands share, and the connection that they lead to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaler_plugin.config.connect import ClusterAddress, find_cluster
from scaler_plugin.config.duration import Duration, parse_duration
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.errors import ConfigError

if TYPE_CHECKING:
    from scaler_plugin.config.schema import ScalerConfig
    from scaler_plugin.coordination.store import Store

EtcdOption = Annotated[
    str | None,
    typer.Option(
        "--etcd",
        metavar="HOST:PORT,…",
        help="etcd's endpoints. Otherwise the variable SCALER_ETCD (with SCALER_ETCD_CA, _CERT, _KEY, _USER and _PASSWORD_FILE),"
        " then the file of --config, then 127.0.0.1:2379.",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME",
        help="The cluster. Otherwise the variable SCALER_CLUSTER, then the file of --config.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A scaler.yaml to take the cluster and etcd's settings from."),
]


@dataclass(frozen=True)
class OpenCluster:
    """A connection to one cluster's part of etcd."""

    store: Store
    keys: Keys
    address: ClusterAddress


@contextmanager
def open_cluster(etcd: str | None, cluster: str | None, config_file: Path | None) -> Iterator[OpenCluster]:
    """Connect as the shared options say. Raises ``ConfigError`` when no cluster is named."""
    config = None
    if config_file:
        from scaler_plugin.config.load import load_file  # noqa: PLC0415  (only those who give a file pay for reading it)

        config = load_file(config_file)
    with connect(find_cluster(os.environ, etcd=etcd, cluster=cluster, config=config), config) as opened:
        yield opened


@contextmanager
def connect(address: ClusterAddress, config: ScalerConfig | None = None) -> Iterator[OpenCluster]:
    """Connect to this address, and let go of it at the end."""
    if address.cluster is None:
        raise ConfigError("No cluster is named; give --cluster NAME, set SCALER_CLUSTER, or give --config FILE.")
    store = address.etcd.open(region=config.aws.region if config else None)
    try:
        yield OpenCluster(store, Keys(address.prefix, address.cluster), address)
    finally:
        store.close()


def duration_option(name: str, text: str) -> Duration:
    """The duration that was given for the option. Raises ``ConfigError``."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{name} {text}: give {error}.") from None


def delay_option(name: str, text: str) -> float:
    """The same in seconds where zero means "at once" and nothing else."""
    return 0.0 if text in ("0", "0s") else duration_option(name, text).seconds
