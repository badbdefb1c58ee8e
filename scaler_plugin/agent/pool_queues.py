"""The queues that the node's pool serves now: ``queues.json`` in the state directory, by which the sidecar tells its agents.

An agent learns its queues when it starts. When the configuration changes them, the sidecar writes this file, and each agent starts
itself again between two tasks (:mod:`scaler_plugin.agent.plugin`). Without the file those of the boot count.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from scaler_plugin.core.model import QueueName
from scaler_plugin.errors import HostError

FILE_NAME = "queues.json"


class QueuesChanged(BaseException):
    """Ends the daemon's loop between two pulls. No ``Exception``: the loop prints those and goes on."""


def announce_queues(directory: Path, queues: tuple[QueueName, ...]) -> None:
    """Tell the agents, in one step. Raises ``HostError``."""
    path = directory / FILE_NAME
    scratch = path.with_suffix(".tmp")
    try:
        scratch.write_text(json.dumps(queues))
        scratch.chmod(0o644)
        scratch.replace(path)
    except OSError as error:
        raise HostError(f"The pool's queues could not be written to {path}: {error}.") from error


def announced_queues(directory: Path) -> tuple[QueueName, ...]:
    """What the agents were told since boot; empty if nothing, or nothing that can be understood."""
    try:
        queues = json.loads((directory / FILE_NAME).read_text())
    except (OSError, ValueError):
        return ()
    if not isinstance(queues, list):
        return ()
    return tuple(QueueName(queue) for queue in queues if isinstance(queue, str))


def queues_watch(directory: Path, serving: tuple[str, ...]) -> Callable[[], bool]:
    """Asks whether an agent that serves these queues should serve others by now: one small read."""

    def changed() -> bool:
        announced = announced_queues(directory)
        return bool(announced) and announced != serving

    return changed
