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


class LocalHost:
    """Implements ``core.ports.Host``. ``SCALER_SHUTDOWN_COMMAND`` replaces the command where there is no systemd."""

    def __init__(self, vitals: VitalsWatch | None = None) -> None:
        self._vitals = vitals
        self._command = shlex.split(os.environ.get("SCALER_SHUTDOWN_COMMAND") or DEFAULT_SHUTDOWN_COMMAND)
        self._gpus = _Gpus()
        psutil.cpu_percent()  # the first call only starts the measurement

    def load(self) -> Load:
        gpu, gpu_memory = self._gpus.load()
        return Load(psutil.cpu_percent(), psutil.virtual_memory().percent, gpu, gpu_memory)

    def vitals(self) -> Vitals:
        return self._vitals.latest() if self._vitals else Vitals()

    def shut_down(self, reason: str) -> None:
        log.info("shutting_down", command=self._command[0], reason=reason)
        try:
            # Its own session: the shutdown must go on when the service manager ends the sidecar, its parent.
            subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(f"The shutdown command {self._command[0]} could not be started: {error}.") from error


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
