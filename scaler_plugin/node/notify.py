"""systemd's notification protocol: readiness and the watchdog (``sd_notify(3)``): one datagram to ``$NOTIFY_SOCKET``."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Tell systemd, if it asked to be told. ``READY=1``, ``WATCHDOG=1``, ``STOPPING=1``, ``STATUS=…``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            # A service manager that does not listen is not the sidecar's problem; its watchdog will say so.
            return
