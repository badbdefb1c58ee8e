"""The user-data of the nodes that bootstrap starts: the same text that a leader writes for those after them."""

from __future__ import annotations

from collections.abc import Mapping

from scaler_plugin.config.connect import DEFAULT_ENDPOINT, find_cluster
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.errors import ConfigError
from scaler_plugin.node.assembly import UserDataWriter


def user_data_writer(config: ScalerConfig, environ: Mapping[str, str]) -> UserDataWriter:
    """Where the file says how to reach etcd, nodes go by it: this machine's tunnel and the paths of its certificates are its own.

    Raises ``ConfigError`` when nobody says where nodes find etcd.
    """
    own = {name: value for name, value in environ.items() if not name.startswith("SCALER_ETCD")}
    address = find_cluster(own if config.etcd.endpoints else environ, config=config)
    if not config.etcd.endpoints and address.etcd.endpoints == (DEFAULT_ENDPOINT,):
        raise ConfigError(
            "The configuration does not say where nodes find etcd. Set etcd.endpoints to its addresses as seen from the instances."
        )
    return UserDataWriter(address.etcd, address.prefix)
