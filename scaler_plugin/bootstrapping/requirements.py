"""What a stack asks of the configuration alone, before AWS is asked anything. Each rule follows from the nodes' policy."""

from __future__ import annotations

from collections.abc import Iterator

from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.secret_ref import SecretRef, SecretSource, parse_secret_ref
from scaler_plugin.errors import ConfigError


def check_requirements(config: ScalerConfig) -> None:
    """Raises ``ConfigError`` with a sentence for each rule that the configuration breaks."""
    broken = [*_pools(config), *_secrets(config)]
    if broken:
        raise ConfigError("The configuration does not go with a stack:\n" + "\n".join(f"  - {line}" for line in broken))


def references(config: ScalerConfig) -> dict[str, SecretRef]:
    """Every reference to a secret that nodes read from AWS, by its place in the configuration."""
    found: dict[str, SecretRef | None] = {
        "etcd.password": config.etcd.password,
        "clearml.access_key": config.clearml.access_key,
        "clearml.secret_key": config.clearml.secret_key,
    }
    tls = config.etcd.tls
    for name, given in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)) if tls else ():
        found[f"etcd.tls.{name}"] = parse_secret_ref(given) if given and not given.startswith("/") else None
    for number, pool in enumerate(config.pools):
        found[f"pools[{number}].git.password"] = pool.git.password if pool.git else None
    in_aws = (SecretSource.SSM, SecretSource.SECRETS_MANAGER)
    return {place: ref for place, ref in found.items() if ref is not None and ref.source in in_aws}


def _pools(config: ScalerConfig) -> Iterator[str]:
    for number, pool in enumerate(config.pools):
        if pool.instance_profile:
            yield (
                f"pools[{number}].instance_profile: leave it out; the stack makes the nodes' profile, and its policy lets nobody "
                "launch with another role."
            )
        if pool.volume and not pool.volume.encrypted:
            yield f"pools[{number}].volume.encrypted: leave it out; the nodes' policy launches with encrypted volumes only."


def _secrets(config: ScalerConfig) -> Iterator[str]:
    for place, ref in references(config).items():
        path = secret_path(config, ref)
        if not ref.name.startswith(path):
            yield (
                f"{place}: {ref} lies outside of {path}, where alone the cluster's nodes may read; store it as "
                f"{ref.source.value}:{path}{ref.name.rpartition('/')[2]}."
            )


def secret_path(config: ScalerConfig, ref: SecretRef) -> str:
    """The path under which nodes may read: parameters' names begin with "/", those of secrets do not."""
    slash = "/" if ref.source is SecretSource.SSM else ""
    return f"{slash}scaler-sidecar/{config.cluster}/"
