"""The user-data of the nodes that bootstrap starts: the same text that a leader writes for those after them."""

from __future__ import annotations

from collections.abc import Mapping

from scaler_plugin.config.connect import DEFAULT_ENDPOINT, find_cluster
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.errors import ConfigError
from scaler_plugin.node.assembly import UserDataWriter


def user_data_writer(config: ScalerConfig, environ: Mapping[str, str]) -> UserDataWriter:
    """Raises ``ConfigError`` when nobody says where nodes find etcd."""
    address = find_cluster(environ, config=config)
    if not config.etcd.endpoints and address.etcd.endpoints == (DEFAULT_ENDPOINT,):
        raise ConfigError(
            "The configuration does not say where nodes find etcd. Set etcd.endpoints to its addresses as seen from the instances."
        )
    return UserDataWriter(address.etcd, address.prefix)
