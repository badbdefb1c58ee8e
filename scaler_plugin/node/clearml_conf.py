"""Writes the agents' ``clearml.conf`` from the configuration: hosts, credentials, git login, and the pool's own lines.

It is the one file of a node that holds secrets: mode 0600, in the state directory, which is gone with the boot. Where the agents
have a user of their own, that user's group may read it too (0640), and nobody but root can change it. Where the configuration
says nothing about ClearML no file is written, and agents use the machine's own ``clearml.conf`` or environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import MutableMapping
from pathlib import Path

from scaler_plugin.config.pool_schema import PoolConfig
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.secrets import resolve
from scaler_plugin.errors import HostError
from scaler_plugin.node.agent_access import AgentUser

#: Where ClearML's agent and SDK look for their configuration file first.
PATH_VARIABLE = "CLEARML_CONFIG_FILE"

FILE_NAME = "clearml.conf"

#: The agent prints its configuration at each start and into each task's console. Its own list leaves access keys readable.
HIDDEN_WHEN_PRINTED = (
    "agent.sanitize_config_printout.hide_secrets: "
    '["secret", "pass", "token", "account_key", "contents", "access_key", "^key$"]'
)


def clearml_conf(config: ScalerConfig, pool: PoolConfig, base: str) -> str | None:
    """The file's text in HOCON, where a later value of the same path wins; ``None`` if there is nothing to write.

    Raises ``ConfigError`` or ``CloudError`` when a secret cannot be read.
    """
    clearml, region = config.clearml, config.aws.region
    values: dict[str, str] = {}
    for path, host in (
        ("api.api_server", clearml.api_host),
        ("api.web_server", clearml.web_host),
        ("api.files_server", clearml.files_host),
    ):
        if host:
            values[path] = host
    if clearml.access_key and clearml.secret_key:
        values["api.credentials.access_key"] = resolve(clearml.access_key, region=region)
        values["api.credentials.secret_key"] = resolve(clearml.secret_key, region=region)
    if pool.git:
        values["agent.git_user"] = pool.git.user
        values["agent.git_pass"] = resolve(pool.git.password, region=region)
    if not values and not pool.extra_clearml_conf:
        return None
    # JSON strings are HOCON strings, so no value can break out of its quotes; but the agent's reader takes no \u escapes.
    lines = [
        HIDDEN_WHEN_PRINTED,
        *(f"{path}: {json.dumps(value, ensure_ascii=False)}" for path, value in values.items()),
    ]
    return "\n".join(part for part in (base, *lines, pool.extra_clearml_conf or "") if part) + "\n"


def machine_conf() -> str:
    """The machine's own ``clearml.conf``, on which the cluster's is laid; empty if there is none."""
    path = Path(os.environ.get(PATH_VARIABLE) or Path.home() / "clearml.conf")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def write_clearml_conf(directory: Path, text: str, reader: AgentUser | None = None) -> Path:
    """Write the file so that nobody but this user, and the ``reader`` if there is one, can ever read it."""
    path = directory / FILE_NAME
    scratch = path.with_suffix(".tmp")
    try:
        scratch.unlink(missing_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if reader is not None:
                os.fchown(descriptor, -1, reader.group_id)
                os.fchmod(descriptor, 0o640)
            file.write(text)
        scratch.replace(path)
    except OSError as error:
        raise HostError(f"{path} could not be written: {error}.") from error
    return path


def use_clearml_conf(directory: Path, environment: MutableMapping[str, str]) -> None:
    """Point ClearML at this node's file if there is one. It holds what the machine's own said, too (:func:`machine_conf`)."""
    path = directory / FILE_NAME
    if path.exists():
        environment[PATH_VARIABLE] = str(path)
