"""Starting and ending the EC2 double's process.

The double dies with the process that started it, SIGKILL included: it ends when the pipe on its standard input closes.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue

from scaler_plugin.errors import HostError
from scaler_plugin.localcloud.ec2.images import DEMO_IMAGE_ID

__all__ = ["DEMO_IMAGE_ID", "Ec2DoubleProcess"]

#: Loading moto takes one second on an idle machine; a loaded one gets a generous multiple.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


class Ec2DoubleProcess:
    """The double under ``state_dir``. With ``port=0`` the first start takes a free port, and restarts keep it."""

    def __init__(
        self,
        state_dir: Path,
        port: int = 0,
        boot_after_s: float | None = None,
        end_after_s: float | None = None,
        images: Sequence[str] = (),
        host: str = "127.0.0.1",
    ) -> None:
        self._state_dir = state_dir
        self._port = port
        self._host = host
        self._delays = {"--boot-after": boot_after_s, "--end-after": end_after_s}
        self._images = tuple(images)
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Start the process, wait until it answers, and return its URL."""
        command = [sys.executable, "-m", "scaler_plugin.localcloud.ec2", "--until-eof"]
        command += ["--host", self._host, "--port", str(self._port), "--state", str(self._state_dir)]
        for option, seconds in self._delays.items():
            command += [] if seconds is None else [option, str(seconds)]
        command += [f"--image={image}" for image in self._images]
        log = self._state_dir / "double.log"
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
        line = _first_line(self._process)
        if not line.startswith("READY "):
            self.kill()
            raise HostError(f"The EC2 double did not start on port {self._port}; {log} has its last words.")
        self._port = int(line.rpartition(":")[2])
        return self.url

    def stop(self) -> None:
        """End the process with SIGTERM, and with SIGKILL if it does not listen. Harmless when it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """SIGKILL: the state stays."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def restart(self) -> str:
        """Start again on the same port with the same state, ending the present process first if there is one."""
        self.stop()
        return self.start()

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.communicate()


def _first_line(process: subprocess.Popen[str]) -> str:
    """The first line on the process's standard output, or nothing if it says none in time."""
    lines: Queue[str] = Queue()
    stdout = process.stdout
    assert stdout is not None  # noqa: S101 - asked for as a pipe
    threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
    try:
        return lines.get(timeout=START_TIMEOUT_S)
    except Empty:
        return ""
