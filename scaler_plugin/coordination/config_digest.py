"""What a node that does not lead takes from the configuration, read by a child process that is gone a moment later.

The schema and pydantic are 12 MB that every sidecar would carry for life, to read a text that changes once a week. So the text
is read by ``python -m scaler_plugin.coordination.config_digest``, which gets it on its standard input.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import structlog

from scaler_plugin.coordination.codec import decode, encode
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.errors import ConfigError, StoreError

log = structlog.get_logger(__name__)

#: The child needs less than a second; a machine in the middle of its boot some more.
CHILD_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ConfigDigest:
    policy: ClusterPolicy
    leader_ttl_s: int


@dataclass(frozen=True)
class _Question:
    text: str
    where: str
    cluster: str


@dataclass(frozen=True)
class _Answer:
    digest: ConfigDigest | None = None
    mistake: str = ""


def digest(text: str, where: str, cluster: str) -> ConfigDigest:
    """Read the text here. Raises ``ConfigError`` in a sentence that begins with ``where``."""
    from scaler_plugin.config.policy import cluster_policy  # noqa: PLC0415  (the schema: see above)
    from scaler_plugin.coordination.published_config import parse_published  # noqa: PLC0415

    config = parse_published(text, where, cluster)
    return ConfigDigest(cluster_policy(config), round(config.leader_ttl.seconds))


def digest_in_child(text: str, where: str, cluster: str) -> ConfigDigest:
    """:func:`digest` in a child process, or here if this machine cannot start one."""
    question = encode(_Question(text, where, cluster))
    command = [sys.executable, "-m", __name__]
    try:
        child = subprocess.run(
            command, input=question.encode(), capture_output=True, timeout=CHILD_TIMEOUT_S, check=True
        )
        answer = decode(_Answer, child.stdout.decode())
    except (OSError, subprocess.SubprocessError, StoreError) as error:
        log.warning("config_child_failed", error=str(error))
        return digest(text, where, cluster)
    if answer.digest is None:
        raise ConfigError(answer.mistake)
    return answer.digest


def main() -> None:
    asked = decode(_Question, sys.stdin.read())
    try:
        answer = _Answer(digest(asked.text, asked.where, asked.cluster))
    except ConfigError as error:
        answer = _Answer(mistake=str(error))
    sys.stdout.write(encode(answer))


if __name__ == "__main__":
    main()
