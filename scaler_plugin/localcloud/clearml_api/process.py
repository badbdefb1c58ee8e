"""The stand-in as a child process, for the demo and for tests."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from scaler_plugin.errors import HostError

#: Starting takes half a second; a loaded machine may need many times that.
START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 10.0


class ClearmlApiProcess:
    """A ClearML API server in a child process with its state in ``state_dir``; the same port over restarts.

    The child holds the reading end of a pipe and ends when this process, however it dies, no longer holds the other.
    (PR_SET_PDEATHSIG would fire when the *thread* that started the child ends.)
    """

    def __init__(
        self,
        state_dir: Path,
        port: int = 0,
        faults: bool = False,
        *,
        watchdog_silent_s: float | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._state_dir = Path(state_dir)
        self._port = port
        self._host = host
        self._faults = faults
        self._watchdog_silent_s = watchdog_silent_s
        self.access_key = access_key or secrets.token_hex(8)
        self.secret_key = secret_key or secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log_path(self) -> Path:
        """What the child says when something is wrong."""
        return self._state_dir / "clearml-api.log"

    def client_environment(self) -> dict[str, str]:
        """What the SDK and the agent need in their environment. There is no web page and no file server."""
        return {
            "CLEARML_API_HOST": self.url,
            "CLEARML_WEB_HOST": self.url,
            "CLEARML_FILES_HOST": self.url,
            "CLEARML_API_ACCESS_KEY": self.access_key,
            "CLEARML_API_SECRET_KEY": self.secret_key,
        }

    def start(self) -> str:
        """Start the child, wait until it serves, return its URL."""
        self._state_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "scaler_plugin.localcloud.clearml_api", "--while-stdin-open"]
        command += [
            "--host",
            self._host,
            "--port",
            str(self._port),
            "--state",
            str(self._state_dir / "clearml-api.sqlite"),
        ]
        if self._faults:
            command.append("--faults")
        if self._watchdog_silent_s is not None:
            command += ["--watchdog-silent-s", str(self._watchdog_silent_s)]
        keys = {"CLEARML_API_ACCESS_KEY": self.access_key, "CLEARML_API_SECRET_KEY": self.secret_key}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **keys},
                # Ctrl-C in a terminal goes to the whole group; the owner decides in which order its parts end.
                start_new_session=True,
            )
        line = self._first_line(self._process)
        if not line.startswith("READY "):
            self.kill()
            raise HostError(f"The ClearML API stand-in did not start; its last words are in {self.log_path}.")
        self.url = line.split()[1]
        self._port = int(self.url.rpartition(":")[2])
        return self.url

    @staticmethod
    def _first_line(process: subprocess.Popen[bytes]) -> str:
        if process.stdout is None:
            return ""
        deadline = time.monotonic() + START_DEADLINE_S
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not chunk:
                break
            line += chunk
        return line.decode().strip()

    def stop(self) -> None:
        """End the child cleanly and wait for it; harmless when none runs."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the child as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def restart(self) -> str:
        """Stop and start again on the same port and state."""
        self.stop()
        return self.start()

    def __enter__(self) -> ClearmlApiProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
