"""The machine's NVIDIA GPUs: how many there should be, and whether all of them answer.

How many there should be is read from the PCI bus, where the hypervisor puts them, so no table of instance types can be out of
date. Only for the case that the bus shows none, families that are known to have some count as one.

They are asked through NVML where the package is installed (extra ``gpu``), else through ``nvidia-smi``. Each GPU is asked for its
memory: one that has fallen off the bus still counts as a device, and fails only when it is used.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)

PCI_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"

#: p2 … p6, g3 … g7 and their kin have NVIDIA GPUs; g4ad has AMD's.
_NVIDIA_FAMILY = re.compile(r"(?!g4ad)[pg][0-9]+[a-z-]*\.")

#: Without its persistence daemon the driver takes seconds for the first answer, on machines with 8 GPUs more than ten.
NVIDIA_SMI_TIMEOUT_S = 60.0


def expected_gpus(instance_type: str, devices: Path = PCI_DEVICES) -> int:
    """How many NVIDIA GPUs a machine of this instance type should have, as far as can be known without asking AWS."""
    seen = sum(1 for device in devices.glob("*") if _is_nvidia_gpu(device))
    return max(seen, 1 if _NVIDIA_FAMILY.match(instance_type) else 0)


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
    except OSError:
        return False
    return vendor == _NVIDIA and kind.startswith(_DISPLAY_CLASS)


class GpuAnswers:
    """Asks every GPU. Not for use by several threads at once."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._nvml: Any = None

    def fault(self) -> str | None:
        """What is wrong with the GPUs, as a sentence; ``None`` when as many answer as should, or none is expected."""
        if self._expected == 0:
            return None
        try:
            answering, error = self._by_nvml()
        except ImportError:
            answering, error = _by_nvidia_smi()
        if answering >= self._expected:
            return None
        return f"{answering} of its {self._expected} GPUs answer" + (f": {error}." if error else ".")

    def _by_nvml(self) -> tuple[int, str]:
        import pynvml  # noqa: PLC0415  (optional: the extra "gpu")

        try:
            if self._nvml is None:
                pynvml.nvmlInit()
                self._nvml = pynvml
            indexes = range(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            return 0, str(error)
        answering, last_error = 0, ""
        for index in indexes:
            try:
                pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
                answering += 1
            except pynvml.NVMLError as error:
                last_error = f"GPU {index}: {error}"
        return answering, last_error


def _by_nvidia_smi() -> tuple[int, str]:
    command = ["nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return 0, "neither NVML's Python package nor nvidia-smi is installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return 0, f"nvidia-smi failed ({type(error).__name__})"
    # A lost GPU's line holds an error instead of a number, and the exit code may be 0 all the same.
    good = [line for line in done.stdout.splitlines() if re.fullmatch(r"\d+, \d+", line.strip())]
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return len(good), said[-1] if done.returncode != 0 and said else ""
