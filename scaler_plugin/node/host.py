"""The machine as the sidecar's port: load by psutil and NVML, shutdown by the operating system's own command."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import Any

import psutil
import structlog

from scaler_plugin.core.health import Vitals
from scaler_plugin.core.model import Load
from scaler_plugin.errors import HostError
from scaler_plugin.node.vitals import VitalsWatch

log = structlog.get_logger(__name__)

DEFAULT_SHUTDOWN_COMMAND = "systemctl poweroff"

#: ``systemctl poweroff`` returns within a fraction of a second, with the shutdown under way or refused.
_REFUSED_WITHIN_S = 2.0


class LocalHost:
    """Implements ``core.ports.Host``. ``SCALER_SHUTDOWN_COMMAND`` replaces the command where there is no systemd."""

    def __init__(self, vitals: VitalsWatch | None = None) -> None:
        self._vitals = vitals
        self._command = shlex.split(os.environ.get("SCALER_SHUTDOWN_COMMAND") or DEFAULT_SHUTDOWN_COMMAND)
        self._shutdown: subprocess.Popen[bytes] | None = None
        self._gpus = _Gpus()
        psutil.cpu_percent()  # the first call only starts the measurement

    def load(self) -> Load:
        gpu, gpu_memory = self._gpus.load()
        return Load(psutil.cpu_percent(), psutil.virtual_memory().percent, gpu, gpu_memory)

    def vitals(self) -> Vitals:
        return self._vitals.latest() if self._vitals else Vitals()

    def shut_down(self, reason: str) -> None:
        """Start the command, and wait shortly for its refusal. One of an earlier call that hangs is left to itself."""
        log.info("shutting_down", command=self._command[0], reason=reason)
        if self._shutdown is not None and (self._shutdown.poll() or 0) > 0:
            log.error("shutdown_failed", command=self._command[0], exit_code=self._shutdown.returncode)
        try:
            # Its own session: the shutdown must go on when the service manager ends the sidecar, its parent. What it complains of
            # goes where the sidecar's own log goes.
            self._shutdown = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            raise HostError(f"The shutdown command {self._command[0]} could not be started: {error}.") from error
        try:
            code = self._shutdown.wait(_REFUSED_WITHIN_S)
        except subprocess.TimeoutExpired:
            return
        # By a signal it ends when the shutdown that it has begun ends the sidecar, whose control group it is in.
        if code > 0 and not _is_stopping():
            self._shutdown = None
            raise HostError(
                f"The shutdown command {shlex.join(self._command)} failed with exit code {code}; the lines before say why."
            )


def _is_stopping() -> bool:
    """The machine shuts down: systemctl may have lost the bus on the way, and fails then at what has succeeded."""
    try:
        asked = subprocess.run(
            ["systemctl", "is-system-running"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_REFUSED_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.stdout.strip() == b"stopping"


class _Gpus:
    """NVML where the package and the driver are there; nothing otherwise."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: list[Any] = []
        try:
            import pynvml  # noqa: PLC0415  (optional: the extra "gpu")

            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            self._nvml = pynvml
        except ImportError:
            pass
        except Exception as error:  # NVML's own error class exists only where the package does
            log.info("no_gpu_load", reason=str(error))

    def load(self) -> tuple[float | None, float | None]:
        """Mean utilisation and mean memory use over the GPUs, in percent."""
        if not self._handles:
            return None, None
        try:
            busy = [float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu) for handle in self._handles]
            memory = [self._nvml.nvmlDeviceGetMemoryInfo(handle) for handle in self._handles]
        except self._nvml.NVMLError as error:
            log.warning("gpu_load_unreadable", error=str(error))
            return None, None
        return sum(busy) / len(busy), sum(100.0 * m.used / m.total for m in memory) / len(memory)
