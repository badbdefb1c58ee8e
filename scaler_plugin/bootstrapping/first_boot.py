"""What a stock image must be told to become a node at its first boot: ``cloud-init.yaml``, filled in for a pool, before the node's
own user-data.

Pure: the same pool gives the same text.
"""

from __future__ import annotations

from importlib.resources import files

from scaler_plugin.bootstrapping.filling import fill
from scaler_plugin.cloud.multipart import join_parts
from scaler_plugin.config.pool_schema import PoolConfig


def on_image_of(pool: PoolConfig, user_data: str) -> str:
    """The user-data of a node on the pool's image: as it is, or behind what a stock image needs. Raises ``ConfigError``."""
    first_boot = pool.first_boot
    if first_boot is None:
        return user_data
    values = {
        "bundle-url": first_boot.bundle_url,
        "bundle-hash": first_boot.bundle_sha256,
        "variant": first_boot.variant.value,
        # As long as a leader gives it: one that is gone must not make a failed machine last longer.
        "limit": f"{pool.startup_timeout.seconds:.0f}",
    }
    pattern = files("scaler_plugin.bootstrapping").joinpath("cloud-init.yaml").read_text(encoding="ascii")
    return join_parts(fill(pattern, values), user_data)
