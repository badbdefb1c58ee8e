"""Options that several commands share, and the connection that they lead to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaler_plugin.cli.own_node import own_address
from scaler_plugin.config.connect import ClusterAddress, find_cluster
from scaler_plugin.config.duration import Duration, parse_duration
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.errors import ConfigError

if TYPE_CHECKING:
    from scaler_plugin.config.schema import ScalerConfig
    from scaler_plugin.coordination.store import Store

NO_CLUSTER = "No cluster is named; give --cluster NAME, set SCALER_CLUSTER, or give --config FILE."

EtcdOption = Annotated[
    str | None,
    typer.Option(
        "--etcd",
        metavar="HOST:PORT,…",
        help="etcd's endpoints. Otherwise the variable SCALER_ETCD (with SCALER_ETCD_CA, _CERT, _KEY, _USER and _PASSWORD_FILE),"
        " then the file of --config, then on a node its own, then 127.0.0.1:2379.",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME",
        help="The cluster. Otherwise the variable SCALER_CLUSTER, then the file of --config, then on a node its own (as root).",
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
    """Connect as the shared options say; on a node without them, to its own cluster. Raises ``ConfigError`` when none is named."""
    config = _loaded(config_file)
    address = find_cluster(os.environ, etcd=etcd, cluster=cluster, config=config)
    if address.cluster is None and (own := own_address()) is not None:
        address = replace(own, etcd=address.etcd) if names_etcd(etcd) else own
    with connect(address, config) as opened:
        yield opened


def find_etcd(etcd: str | None, config_file: Path | None) -> tuple[ClusterAddress, str | None]:
    """The same for commands about etcd itself, which need no cluster; and the region in which AWS keeps what it refers to."""
    config = _loaded(config_file)
    address = find_cluster(os.environ, etcd=etcd, config=config)
    if config is None and not names_etcd(etcd) and (own := own_address()) is not None:
        address = own
    return address, config.aws.region if config else None


def names_etcd(option: str | None) -> bool:
    return bool(option or os.environ.get("SCALER_ETCD"))


def _loaded(config_file: Path | None) -> ScalerConfig | None:
    if config_file is None:
        return None
    from scaler_plugin.config.load import load_file  # noqa: PLC0415  (only those who give a file pay for reading it)

    return load_file(config_file)


@contextmanager
def connect(address: ClusterAddress, config: ScalerConfig | None = None) -> Iterator[OpenCluster]:
    """Connect to this address, and let go of it at the end."""
    if address.cluster is None:
        raise ConfigError(NO_CLUSTER)
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
