"""The sign of life for the machine's dead-man timer: ``<state-dir>/heartbeat``, fed at each pass of the sidecar's loop.

The file holds the seconds since the machine booted (``CLOCK_BOOTTIME``, the first number of ``/proc/uptime``), so that no step of
the wall clock makes it look old or fresh. It always has the same length and is written over in place: a reader finds a whole
number at any moment, and a full disk can't stop it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from scaler_plugin.agent.slot_record import boottime

FILE_NAME = "heartbeat"


def beat(directory: Path) -> None:
    """Say "alive now". Never raises: what a missing sign of life means, the dead-man timer decides."""
    with suppress(OSError):
        fd = os.open(directory / FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, f"{boottime():13.2f}\n".encode())
        finally:
            os.close(fd)
