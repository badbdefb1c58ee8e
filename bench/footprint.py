"""What a sidecar that does not lead costs its machine: a worker with one real agent, idle, watched from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench.stage import Stage, config, stage, wait_for
from bench.table import Row
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.core.model import NodeRole, SlotState
from scaler_plugin.localcloud.machines.folder import SIDECAR

RSS_LIMIT_MB = 60.0
CPU_LIMIT_PERCENT = 0.5


def measure(length_s: float) -> Iterator[Row]:
    settings = config(min_instances=1, max_instances=1, idle_timeout="never")
    with stage(settings, boot_delay_s=0.0) as made:
        made.candidate("standby-a")
        made.await_first_pass()
        wait_for(lambda: _idle_worker(made), "an idle worker", every_s=0.2)
        machines = made.world.machines
        (machine,) = machines.reports() if machines else ()
        pid = machine.units[SIDECAR]
        cpu_before, began, highest = _cpu_s(pid), time.monotonic(), 0.0
        while (left := began + length_s - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            highest = max(highest, _status_mb(pid, "VmRSS"))
        percent = 100.0 * (_cpu_s(pid) - cpu_before) / (time.monotonic() - began)
        pss = _pss_mb(pid)
    what = f"sidecar that does not lead, one idle agent, {length_s:.0f} s"
    yield Row(f"{what}: RSS", f"< {RSS_LIMIT_MB:.0f} MB", f"{highest:.1f} MB (PSS {pss:.1f} MB)", RSS_LIMIT_MB, highest)
    yield Row(f"{what}: CPU", f"< {CPU_LIMIT_PERCENT} % of a core", f"{percent:.2f} %", CPU_LIMIT_PERCENT, percent)


def _idle_worker(made: Stage) -> bool:
    workers = [n for n in read_nodes(made.store, made.keys) if n.identity.role is NodeRole.WORKER]
    return any(slot.state is SlotState.IDLE for node in workers for slot in node.slots)


def _cpu_s(pid: int) -> float:
    """User and system time so far, of the process's own threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status_mb(pid: int, name: str) -> float:
    return _kb(Path(f"/proc/{pid}/status"), name) / 1000.0


def _pss_mb(pid: int) -> float:
    return _kb(Path(f"/proc/{pid}/smaps_rollup"), "Pss") / 1000.0


def _kb(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])
