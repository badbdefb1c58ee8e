"""The sidecar's local sockets: a datagram that wakes it up, and a question that the command line asks it.

``wake.sock`` takes any datagram: an agent's state changed, look now. ``control.sock`` takes one JSON line a connection and
answers with one. Both live in the state directory, whose mode says who may use them. Neither carries a secret.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from scaler_plugin.errors import HostError

log = structlog.get_logger(__name__)

WAKE_SOCKET = "wake.sock"
CONTROL_SOCKET = "control.sock"
#: A client that does not finish its line in time is dropped: the sidecar's loop waits for nobody.
CLIENT_TIMEOUT_S = 0.5
LONGEST_LINE = 65_536
#: At least so long between two ends of a sleep by a knock. A pass is root's work, and every task may knock.
KNOCK_PAUSE_S = 0.1
#: So many datagrams are taken at a time, so that whoever sends faster does not hold the loop. The rest end a later sleep.
_KNOCKS_AT_A_TIME = 64


class ControlSockets:
    """Owns both sockets and the sidecar's sleep: :meth:`sleep` ends early when somebody knocks."""

    def __init__(self, directory: Path, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        self._knocked_at = float("-inf")
        self._paths = (directory / WAKE_SOCKET, directory / CONTROL_SOCKET)
        try:
            self._wake = _bind(self._paths[0], socket.SOCK_DGRAM)
            self._control = _bind(self._paths[1], socket.SOCK_STREAM)
        except OSError as error:
            raise HostError(
                f"The sidecar's sockets could not be made in {directory}: {error}. Set SCALER_STATE_DIR to a directory "
                "this user may write to."
            ) from error
        self._control.listen(8)
        self._pipe_out, self._pipe_in = socket.socketpair()
        for sock in (self._wake, self._control, self._pipe_out, self._pipe_in):
            sock.setblocking(False)
        for sock in (self._wake, self._control, self._pipe_out):
            self._selector.register(sock, selectors.EVENT_READ)

    def wake(self) -> None:
        """End the present :meth:`sleep`; may be called from any thread and from a signal handler."""
        with suppress(BlockingIOError):  # enough wake-ups are waiting already
            self._pipe_in.send(b"x")

    def sleep(self, seconds: float) -> None:
        """Return after so long, or as soon as something knocked; questions are answered on the way.

        A first knock ends it at once, another one not before :data:`KNOCK_PAUSE_S` after the last that did. :meth:`wake` always
        ends it at once.
        """
        until = time.monotonic() + max(0.0, seconds)
        knocked = False
        try:
            while True:
                for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
                    if key.fileobj is self._control:
                        self._serve()
                    elif key.fileobj is self._wake:
                        knocked = True
                        self._selector.unregister(self._wake)  # or it would end each select of the pause at once
                        until = min(until, self._knocked_at + KNOCK_PAUSE_S)
                    else:
                        _drain(self._pipe_out)
                        return
                if time.monotonic() >= until:
                    return
        finally:
            if knocked:
                _drain(self._wake)  # the pass that follows sees what all of these tell of
                self._selector.register(self._wake, selectors.EVENT_READ)
                self._knocked_at = time.monotonic()

    def close(self) -> None:
        self._selector.close()
        for sock in (self._wake, self._control, self._pipe_out, self._pipe_in):
            sock.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _serve(self) -> None:
        try:
            client, _ = self._control.accept()
        except OSError:
            return
        with client:
            try:
                answer = self._answer(_request(client))
            except (OSError, ValueError, RecursionError) as error:
                answer = {"error": f"The request could not be read: {error}"}
            try:
                client.settimeout(CLIENT_TIMEOUT_S)
                client.sendall(json.dumps(answer).encode() + b"\n")
            except OSError as error:
                log.info("control_client_left", error=str(error))


def _request(client: socket.socket) -> dict[str, Any]:
    """One line of JSON, all of it within the time: a client that drips must not hold the loop for longer."""
    deadline = time.monotonic() + CLIENT_TIMEOUT_S
    line = b""
    while not line.endswith(b"\n"):
        client.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = client.recv(4096)
        line += chunk
        if not chunk or len(line) > LONGEST_LINE:
            break
    request = json.loads(line)
    if not isinstance(request, dict):
        raise ValueError("it is no JSON object")
    return request


def knock(directory: Path) -> None:
    """Wake this machine's sidecar up. Never raises: it looks at every step anyway."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(b"look", str(directory / WAKE_SOCKET))


def ask_sidecar(directory: Path, request: dict[str, Any], timeout_s: float = 2.0) -> dict[str, Any]:
    """The command line's side: one question to this machine's sidecar."""
    path = directory / CONTROL_SOCKET
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(sock.makefile("rb").readline())
    except PermissionError:
        raise HostError(f"The sidecar's socket {path} is not for this user; call this with sudo.") from None
    except (OSError, ValueError) as error:
        raise HostError(
            f"No sidecar answers at {path}: {error}. Is it running? See `systemctl status scaler-sidecar`."
        ) from error
    if not isinstance(answer, dict):
        raise HostError(f"The sidecar at {path} gave an answer that is not understood; its version may be another.")
    if "error" in answer:
        raise HostError(str(answer["error"]))
    return answer


def _bind(path: Path, kind: socket.SocketKind) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # left by a sidecar that was killed
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    sock.bind(str(path))
    path.chmod(0o660)
    return sock


def _drain(sock: socket.socket) -> None:
    with suppress(BlockingIOError):
        for _ in range(_KNOCKS_AT_A_TIME):
            sock.recv(4096)
