"""Reads the secret behind a reference, at the moment of use. The value goes nowhere but to the caller.

boto3 is imported only for ``ssm:`` and ``secretsmanager:`` references: a sidecar whose secrets lie in files stays small.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaler_plugin.config.secret_ref import SecretRef, SecretSource
from scaler_plugin.errors import CloudRefused, CloudUnavailable, ConfigError


def resolve(ref: SecretRef, *, environ: Mapping[str, str] | None = None, region: str | None = None) -> str:
    """The secret's value. ``region`` is for AWS references; without it boto3's own chain decides.

    Raises ``ConfigError`` when a variable or file is missing or empty, ``CloudRefused`` and ``CloudUnavailable`` for AWS.
    """
    if ref.source is SecretSource.ENV:
        value = (os.environ if environ is None else environ).get(ref.name, "")
        if not value:
            raise ConfigError(
                f"The secret {ref} cannot be read: the environment variable {ref.name} is not set; set it."
            )
        return value
    # Editors, `echo` and whoever types into `aws … file:///dev/stdin` end it with a newline that is no part of the secret.
    return (_read_file(ref) if ref.source is SecretSource.FILE else _read_aws(ref, region)).rstrip("\r\n")


def _read_file(ref: SecretRef) -> str:
    try:
        value = Path(ref.name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"The secret {ref} cannot be read: the file is not UTF-8 text.") from None
    except OSError as error:
        raise ConfigError(
            f"The secret {ref} cannot be read: {error.strerror}; create the file, readable for this user only."
        ) from None
    if not value.strip("\r\n"):
        raise ConfigError(f"The secret {ref} cannot be read: the file is empty; write the secret into it.")
    return value


def _read_aws(ref: SecretRef, region: str | None) -> str:
    from scaler_plugin.cloud.metadata import own_region  # noqa: PLC0415

    import boto3  # noqa: PLC0415  isort: skip
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    region = region or boto3.session.Session().region_name or own_region()
    settings = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
    try:
        if ref.source is SecretSource.SSM:
            client: Any = boto3.client("ssm", region_name=region, config=settings)
            value = client.get_parameter(Name=ref.name, WithDecryption=True)["Parameter"]["Value"]
        else:
            client = boto3.client("secretsmanager", region_name=region, config=settings)
            value = client.get_secret_value(SecretId=ref.name).get("SecretString", "")
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise CloudRefused(
            f"The secret {ref} cannot be read: AWS answered {code}; check that it exists in this region"
            " and that these credentials (on an instance: its role's) may read it.",
            code,
        ) from None
    except BotoCoreError as error:
        raise CloudUnavailable(
            f"The secret {ref} cannot be read: {error}; check the AWS credentials, the region and the network."
        ) from None
    if not value.strip("\r\n"):
        raise ConfigError(f"The secret {ref} holds no text; store it as a string.")
    return str(value)
