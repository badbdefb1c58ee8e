"""References to secrets: where a password is kept, never the password itself.

``env:NAME`` · ``file:/path`` · ``ssm:/parameter/name`` · ``secretsmanager:name-or-arn``. A reference may be printed, stored and
logged; the value behind it is read by :mod:`scaler_plugin.config.secrets` at the moment of use. Text that is no reference is taken
for a secret in clear and never repeated in an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class SecretSource(str, Enum):
    ENV = "env"
    FILE = "file"
    SSM = "ssm"
    SECRETS_MANAGER = "secretsmanager"


_NAMES = {
    SecretSource.ENV: re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}"),
    SecretSource.FILE: re.compile(r"/\S(?:.*\S)?"),
    # https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html
    SecretSource.SSM: re.compile(r"/[A-Za-z0-9_./-]{1,1010}"),
    # https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html (names), ARNs have colons too
    SecretSource.SECRETS_MANAGER: re.compile(r"[A-Za-z0-9/_+=.@:-]{1,2048}"),
}
FORMS = "a reference to the secret: env:NAME, file:/path, ssm:/parameter/name or secretsmanager:name"
JSON_PATTERN = "^(env:[A-Za-z_]|file:/|ssm:/|secretsmanager:.)"


@dataclass(frozen=True)
class SecretRef:
    source: SecretSource
    name: str

    def __str__(self) -> str:
        return f"{self.source.value}:{self.name}"


def parse_secret_ref(value: object) -> SecretRef:
    """Read a reference. Raises ``ValueError`` with what is allowed, without the value, which may be a secret in clear."""
    if isinstance(value, str):
        scheme, _, name = value.partition(":")
        for source, pattern in _NAMES.items():
            if scheme == source.value and pattern.fullmatch(name):
                return SecretRef(source, name)
    raise ValueError(f"{FORMS}, and never the secret itself")
