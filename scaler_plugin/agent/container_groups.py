"""Which containers live, asked of the kernel: for the case that the docker daemon does not answer.

A container's processes live in a control group that is named for the container, whoever started them and whether its daemon lives
or not. Which worker a container belongs to stands in docker's own file about it; where that can't be read, it may be anybody's.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

#: ``/system.slice/docker-<id>.scope`` with systemd, ``/docker/<id>`` without; podman says libpod.
_GROUP = re.compile(r"(?:docker|libpod)[-/]([0-9a-f]{64})")
DOCKER_CONTAINERS = Path("/var/lib/docker/containers")
WORKER_LABEL = "clearml-worker-id"


def living_groups(proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Ids of the containers in which some process lives."""
    found: dict[str, None] = {}
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            group = (proc / name / "cgroup").read_text()
        except OSError:  # it ended meanwhile
            continue
        for match in _GROUP.finditer(group):
            found[match[1]] = None
    return tuple(found)


def may_be_of(container: str, worker_id: str, containers: Path = DOCKER_CONTAINERS) -> bool:
    """Whether this worker's agent may have started the container; false only if docker's file names another or none."""
    try:
        raw: Any = json.loads((containers / container / "config.v2.json").read_bytes())
        labels = raw["Config"]["Labels"] or {}
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return bool(labels.get(WORKER_LABEL) == worker_id)
