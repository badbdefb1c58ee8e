"""The user-data of an instance: what it is and where its etcd is. Small data that a person can read, not a script.

Everyone who may describe the instance can read its user-data, and so can every process on it. Hence it holds references to
secrets (``ssm:/…``) and never a secret; the image brings the programs, the configuration comes from etcd.

Keys that this version does not know are passed over: a new leader launches images with an older sidecar on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from scaler_plugin.cloud.multipart import node_part
from scaler_plugin.config.secret_ref import SecretRef, parse_secret_ref
from scaler_plugin.core.model import LaunchId, NodeRole, PoolName
from scaler_plugin.errors import ConfigError

#: EC2 takes 16 kB, of which a stock image needs some; what does not fit here is configuration and belongs into etcd.
LIMIT_BYTES = 4096

HEADER = "# scaler-sidecar: what this instance is. It holds names of secrets, never a secret."


@dataclass(frozen=True)
class EtcdAccess:
    """How the node reaches etcd. ``ca``, ``cert`` and ``key`` are files of the image, or references."""

    endpoints: tuple[str, ...]
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password: SecretRef | None = None


@dataclass(frozen=True)
class UserData:
    """``prefix`` is the first part of the etcd keys. ``secrets`` are further references by purpose, e.g. ClearML's keys."""

    cluster: str
    role: NodeRole
    etcd: EtcdAccess
    prefix: str = "scaler-sidecar"
    pool: PoolName | None = None
    launch_id: LaunchId | None = None
    secrets: tuple[tuple[str, SecretRef], ...] = ()

    def render(self) -> str:
        """The text for RunInstances; the same value always gives the same text. Raises ``ConfigError`` above 4 kB."""
        etcd = {
            "endpoints": list(self.etcd.endpoints),
            "ca": self.etcd.ca,
            "cert": self.etcd.cert,
            "key": self.etcd.key,
            "user": self.etcd.user,
            "password": str(self.etcd.password) if self.etcd.password else None,
        }
        value = {
            "cluster": self.cluster,
            "prefix": self.prefix,
            "role": self.role.value,
            "pool": self.pool,
            "launch": self.launch_id,
            "etcd": {key: given for key, given in etcd.items() if given is not None},
            "secrets": {name: str(reference) for name, reference in self.secrets},
        }
        shown = {key: given for key, given in value.items() if given not in (None, {})}
        text = f"{HEADER}\n{yaml.safe_dump(shown, sort_keys=False, width=1000)}"
        if (size := len(text.encode())) > LIMIT_BYTES:
            raise ConfigError(
                f"The user-data of pool {self.pool} would have {size} bytes and may have {LIMIT_BYTES}. "
                "Name fewer etcd endpoints or secrets."
            )
        return text


def parse_user_data(text: str) -> UserData:
    """Read what :meth:`UserData.render` wrote, alone or as a part of a stock image's user-data.

    Raises ``ConfigError`` naming the key; values of secrets are not repeated.
    """
    try:
        value = yaml.safe_load(node_part(text))
    except yaml.YAMLError as error:
        raise _wrong("as a whole", "YAML with one setting per line") from error
    if not isinstance(value, dict) or "cluster" not in value:
        raise ConfigError(
            "This instance's user-data was not written by a scaler-sidecar: it has no `cluster`. Start the instance through the "
            "cluster's leader, or give the settings as options."
        )
    role_name = _text(value, "role")
    if role_name not in {role.value for role in NodeRole}:
        raise _wrong("role", " or ".join(role.value for role in NodeRole))
    role = NodeRole(role_name)
    pool = _text(value, "pool") if role is NodeRole.WORKER else _optional_text(value, "pool")
    launch = _optional_text(value, "launch")
    return UserData(
        cluster=_text(value, "cluster"),
        role=role,
        etcd=_etcd(value.get("etcd")),
        prefix=_optional_text(value, "prefix") or "scaler-sidecar",
        pool=PoolName(pool) if pool else None,
        launch_id=LaunchId(launch) if launch else None,
        secrets=_secrets(value.get("secrets", {})),
    )


def _etcd(value: object) -> EtcdAccess:
    if not isinstance(value, dict):
        raise _wrong("etcd", "a section with `endpoints`")
    endpoints = value.get("endpoints")
    if not isinstance(endpoints, list) or not endpoints or not all(isinstance(e, str) and e for e in endpoints):
        raise _wrong("etcd.endpoints", "a list of host:port")
    password = value.get("password")
    return EtcdAccess(
        endpoints=tuple(endpoints),
        ca=_optional_text(value, "ca", "etcd."),
        cert=_optional_text(value, "cert", "etcd."),
        key=_optional_text(value, "key", "etcd."),
        user=_optional_text(value, "user", "etcd."),
        password=None if password is None else _reference(password, "etcd.password"),
    )


def _secrets(value: object) -> tuple[tuple[str, SecretRef], ...]:
    if not isinstance(value, dict):
        raise _wrong("secrets", "a list of names with a reference each")
    return tuple((str(name), _reference(reference, f"secrets.{name}")) for name, reference in value.items())


def _reference(value: object, key: str) -> SecretRef:
    try:
        return parse_secret_ref(value)
    except ValueError as error:
        # Not chained: a secret in clear must not appear in a traceback.
        raise _wrong(key, str(error)) from None


def _text(value: Mapping[str, Any], key: str) -> str:
    found = _optional_text(value, key)
    if found is None:
        raise ConfigError(f"This instance's user-data lacks `{key}`. Start the instance through the cluster's leader.")
    return found


def _optional_text(value: Mapping[str, Any], key: str, section: str = "") -> str | None:
    found = value.get(key)
    if found is not None and not (isinstance(found, str) and found):
        raise _wrong(section + key, "a text")
    return found


def _wrong(key: str, allowed: str) -> ConfigError:
    return ConfigError(f"This instance's user-data is wrong at `{key}`: it must be {allowed}.")
