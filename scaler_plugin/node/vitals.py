"""Looks at disk, docker and GPUs every half minute, beside the sidecar's loop: a look that hangs (a GPU that is gone, a disk that
does not answer) holds nobody up, and is itself a sign.

The cost is one short-lived thread per look. A look that never comes back keeps its thread; no second one is started then.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace

import structlog

from scaler_plugin.core.health import DiskSpace, Vitals
from scaler_plugin.core.ports import Clock
from scaler_plugin.node.docker_ping import docker_fault
from scaler_plugin.node.gpus import GpuAnswers
from scaler_plugin.node.kernel_log import KernelLog

log = structlog.get_logger(__name__)

#: A task that begins within half a minute of an ailment may fail of it; looking more often would cost more than it saves.
LOOK_EVERY_S = 30.0
#: ``nvidia-smi`` on eight GPUs without the persistence daemon takes many seconds; beyond this nothing will come.
STUCK_AFTER_S = 180.0
#: … and the sidecar has passed by so often meanwhile, or it was the sidecar that stood still (a suspended machine).
STUCK_AFTER_ASKED = 60

#: Where tasks write: the root volume, and docker's data where it has a volume of its own.
WATCHED_PATHS = ("/", "/var/lib/docker")


@dataclass(frozen=True)
class Equipment:
    """What the pool needs of the machine."""

    docker: bool = False
    gpus: int = 0


class VitalSigns:
    """One look, part by part; ``at`` names the part that is being looked at."""

    def __init__(self, equipment: Equipment, paths: tuple[str, ...] = WATCHED_PATHS) -> None:
        self._equipment = equipment
        self._paths = paths
        self._gpus = GpuAnswers(equipment.gpus)
        self._kernel_log = KernelLog() if equipment.gpus else None
        self.at = ""

    def look(self) -> Vitals:
        """Takes milliseconds as a rule, and has no limit."""
        self.at = "disk"
        disks = disk_space(self._paths)
        self.at = "docker"
        docker = docker_fault() if self._equipment.docker else None
        self.at = "kernel log"
        xids = self._kernel_log.xids() if self._kernel_log else ()
        self.at = "GPUs"
        gpu = self._gpus.fault()
        self.at = ""
        return Vitals(disks, docker, gpu, xids, unseen=self._unseen())

    def _unseen(self) -> str:
        if self._kernel_log is None or not self._kernel_log.unreadable:
            return ""
        return (
            f"The kernel's log cannot be read ({self._kernel_log.unreadable}), so errors of its GPUs (Xid) are not seen: "
            "the sidecar needs CAP_SYSLOG, and ProtectKernelLogs=no in its unit."
        )


def disk_space(paths: tuple[str, ...]) -> tuple[DiskSpace, ...]:
    """The free space that a user other than root may use, once for each file system."""
    found: dict[int, DiskSpace] = {}
    for path in paths:
        try:
            device, status = os.stat(path).st_dev, os.statvfs(path)
        except OSError:
            continue
        found.setdefault(device, DiskSpace(path, status.f_bavail * status.f_frsize))
    return tuple(found.values())


class VitalsWatch:
    """The newest look that came back; :meth:`latest` returns at once."""

    def __init__(self, signs: VitalSigns, clock: Clock, every_s: float = LOOK_EVERY_S) -> None:
        self._signs = signs
        self._clock = clock
        self._every_s = every_s
        self._vitals = Vitals()
        self._thread: threading.Thread | None = None
        self._began_at = float("-inf")
        self._asked = 0

    def latest(self) -> Vitals:
        now = self._clock.monotonic()
        if self._thread is not None and self._thread.is_alive():
            self._asked += 1
            if now - self._began_at > STUCK_AFTER_S and self._asked > STUCK_AFTER_ASKED:
                return replace(self._vitals, stuck_on=self._signs.at or "look")
        elif now - self._began_at >= self._every_s:
            self._began_at, self._asked = now, 0
            self._thread = threading.Thread(target=self._look, name="vitals", daemon=True)
            try:
                self._thread.start()
            except (
                RuntimeError
            ) as error:  # no room for one more thread: a task's doing as a rule, and over when it ends
                log.warning("vitals_not_looked_at", error=str(error))
        return self._vitals

    def _look(self) -> None:
        self._vitals = self._signs.look()
