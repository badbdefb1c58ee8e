"""How to reach a cluster: its etcd, its key prefix and its name, from options, environment variables and ``scaler.yaml``.

Each setting is taken from the first place that has it: the command line, the environment (``SCALER_ETCD``, ``SCALER_CLUSTER``,
``SCALER_PREFIX``, ``SCALER_ETCD_CA``, ``_CERT``, ``_KEY``, ``_USER``, ``_PASSWORD_FILE``), the file, the default.
The environment stands before the file because it belongs to the machine (a tunnel, its own certificate paths), while the
file is the same everywhere.

A password stays a reference until a connection is opened. Nothing is sent before the store's first call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaler_plugin.config.kept_secrets import IN_AWS, kept_file, resolve_kept
from scaler_plugin.config.secret_ref import SecretRef, SecretSource, parse_secret_ref
from scaler_plugin.errors import ConfigError

if TYPE_CHECKING:
    # Schema and etcd client are loaded by those who have a file to read or a connection to open.
    from scaler_plugin.config.schema import ScalerConfig
    from scaler_plugin.coordination.store import Store

#: Where etcd's own tools look for it, too.
DEFAULT_ENDPOINT = "127.0.0.1:2379"
DEFAULT_PREFIX = "scaler-sidecar"


@dataclass(frozen=True)
class EtcdSettings:
    """One etcd cluster and how to log in to it; ``ca``, ``cert`` and ``key`` are files of this machine, or where AWS keeps them."""

    endpoints: tuple[str, ...]
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password: SecretRef | None = None

    def open(self, region: str | None = None, timeout_s: float = 3.0) -> Store:
        """A store on these settings. Raises ``ConfigError`` when a certificate or the password cannot be read."""
        from scaler_plugin.coordination.etcd_store import open_store  # noqa: PLC0415

        password = resolve_kept(self.password, region) if self.password else None
        ca, cert, key = (local_file(given, region) for given in (self.ca, self.cert, self.key))
        return open_store(
            self.endpoints, ca=ca, cert=cert, key=key, user=self.user, password=password, timeout_s=timeout_s
        )

    def __str__(self) -> str:
        return ", ".join(self.endpoints)


@dataclass(frozen=True)
class ClusterAddress:
    """Which cluster in which etcd. ``cluster`` is ``None`` when nobody has named it."""

    etcd: EtcdSettings
    prefix: str = DEFAULT_PREFIX
    cluster: str | None = None


def local_file(given: str | None, region: str | None) -> str | None:
    """The TLS file itself, or a file with what the reference names. Raises ``ConfigError`` or ``CloudError``."""
    if given is None or given.startswith("/"):
        return given
    try:
        ref = parse_secret_ref(given)
    except ValueError:
        return given  # a relative path, as people give it on the command line
    return str(kept_file(ref, region)) if ref.source in IN_AWS else given


def find_cluster(
    environ: Mapping[str, str],
    *,
    etcd: str | None = None,
    cluster: str | None = None,
    config: ScalerConfig | None = None,
) -> ClusterAddress:
    """The address from the options ``etcd`` (a comma list) and ``cluster``, the environment, and a configuration file."""
    return ClusterAddress(
        etcd=_etcd_settings(environ, etcd, config),
        prefix=environ.get("SCALER_PREFIX") or (config.prefix if config else DEFAULT_PREFIX),
        cluster=cluster or environ.get("SCALER_CLUSTER") or (config.cluster if config else None),
    )


def _etcd_settings(environ: Mapping[str, str], etcd: str | None, config: ScalerConfig | None) -> EtcdSettings:
    file = config.etcd if config else None
    tls = file.tls if file else None
    user = environ.get("SCALER_ETCD_USER")
    password_file = environ.get("SCALER_ETCD_PASSWORD_FILE")
    if user and not password_file:
        raise ConfigError(
            "SCALER_ETCD_USER is set without a password; set SCALER_ETCD_PASSWORD_FILE to the file that holds it."
        )
    if password_file and not (user or (file and file.user)):
        raise ConfigError("SCALER_ETCD_PASSWORD_FILE is set without a user; set SCALER_ETCD_USER.")
    # The user and the password of the file belong together: a user from the environment never gets the file's password.
    password = SecretRef(SecretSource.FILE, password_file) if password_file else (file.password if file else None)
    return EtcdSettings(
        endpoints=_endpoints("--etcd", etcd)
        or _endpoints("SCALER_ETCD", environ.get("SCALER_ETCD"))
        or (file.endpoints if file else ())
        or (DEFAULT_ENDPOINT,),
        ca=environ.get("SCALER_ETCD_CA") or (tls.ca if tls else None),
        cert=environ.get("SCALER_ETCD_CERT") or (tls.cert if tls else None),
        key=environ.get("SCALER_ETCD_KEY") or (tls.key if tls else None),
        user=user or (file.user if file else None),
        password=password,
    )


def _endpoints(name: str, text: str | None) -> tuple[str, ...]:
    if not text:
        return ()
    endpoints = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not endpoints:
        raise ConfigError(
            f"{name} names no endpoint; write a comma list of host:port, such as 10.0.0.5:2379,10.0.0.6:2379."
        )
    return endpoints
