"""Whether the docker daemon answers: its own ``/_ping`` over its socket, which costs a millisecond and starts no process."""

from __future__ import annotations

import os
import socket

DEFAULT_SOCKET = "/var/run/docker.sock"
#: The daemon answers a ping from memory; one that needs longer starts no container either.
TIMEOUT_S = 10.0


def docker_fault() -> str | None:
    """Why docker can't be used, as a sentence; ``None`` when it answers, or when this user may not ask it.

    Only a daemon behind a Unix socket is asked (``DOCKER_HOST=unix://…``, or docker's default).
    """
    host = os.environ.get("DOCKER_HOST", f"unix://{DEFAULT_SOCKET}")
    if not host.startswith("unix://"):
        return None
    path = host.removeprefix("unix://")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(path)
            sock.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            answer = sock.recv(256)
    except PermissionError:
        return None
    except FileNotFoundError:
        return f"Its docker does not run: there is no socket at {path}."
    except OSError as error:
        return f"Its docker does not answer at {path}: {error}."
    status = answer.split(b"\r\n", 1)[0].decode(errors="replace")
    return None if " 200" in status else f"Its docker answers at {path} with {status!r}."
