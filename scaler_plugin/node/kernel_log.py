"""The NVIDIA driver's error messages in the kernel's log (``/dev/kmsg``), where this user may read it, or why it can't be read.

Errors of the whole boot count, also those from before the sidecar started, as far as the kernel's buffer still has them.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from scaler_plugin.core.health import Xid

KMSG = Path("/dev/kmsg")
#: The longest record the kernel hands out (``Documentation/ABI/testing/dev-kmsg``).
_RECORD_BYTES = 8192
_XID = re.compile(rb"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)")
#: A GPU that fails for good writes the same line again and again.
_MOST_KEPT = 100


class KernelLog:
    """Remembers what it has read; a descriptor stays open, so each message is read once."""

    def __init__(self, path: Path = KMSG) -> None:
        self._path = path
        self._fd: int | None = None
        self._unreadable = ""
        self._xids: dict[Xid, None] = {}

    def xids(self) -> tuple[Xid, ...]:
        """Each kind of error on each GPU since boot, once, in order of first appearance."""
        if self._open():
            self._read_on()
        return tuple(self._xids)

    @property
    def unreadable(self) -> str:
        """Why the log can't be read, as the system says it; empty while it can."""
        return self._unreadable

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> bool:
        if self._fd is None and not self._unreadable:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                self._unreadable = str(error)
        return self._fd is not None

    def _read_on(self) -> None:
        while self._fd is not None:
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten before it was read: the next read goes on after the gap
                    continue
                self.close()
                self._unreadable = str(error)
                return
            if not record:
                return
            if len(self._xids) < _MOST_KEPT and (found := _XID.search(record)):
                self._xids.setdefault(Xid(int(found[2]), found[1].decode()))
