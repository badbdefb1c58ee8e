"""Whether a machine is fit to take tasks, from what it says of itself: pure.

Guarantees: what could not be found out is no ailment; a user's own error (a task that crashes on the GPU, a container that fails)
is none either. An ailment closes the node's gates and never ends a running task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: What a task needs at least to begin at all: its virtual environment or the layers of its image, and its log.
DEFAULT_MIN_FREE_DISK = 2 * 1024**3

#: GPU errors ("Xid", in the kernel's log) after which only a reset or another machine helps. Others, such as 13, 31 and 43, are
#: mostly errors of the program on the GPU, and say nothing about the machine.
#: Source: NVIDIA's Xid catalog (docs.nvidia.com/deploy/xid-errors), those whose action is a reset, a restart or a replacement.
FATAL_XIDS: Mapping[int, str] = {
    48: "uncorrectable memory error",
    62: "internal microcontroller halted",
    64: "memory repair failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    95: "uncontained memory error",
    119: "GPU system processor does not answer",
    120: "GPU system processor failed",
    140: "unrecovered memory error",
}

#: Deaths of one slot's agent within so long that make it a crash loop. systemd restarts it within seconds each time; each death
#: may cost a task, and a task is put back only a few times.
CRASH_LOOP_DEATHS = 3
CRASH_LOOP_WITHIN_S = 900.0


@dataclass(frozen=True)
class HealthCheck:
    """A check of the user's own: shell text that ends with 0 when the machine is fit."""

    name: str
    script: str
    every_s: float
    timeout_s: float


@dataclass(frozen=True)
class HealthPolicy:
    """What a pool expects of its machines."""

    min_free_disk_bytes: int = DEFAULT_MIN_FREE_DISK
    checks: tuple[HealthCheck, ...] = ()


@dataclass(frozen=True)
class DiskSpace:
    path: str
    free_bytes: int


@dataclass(frozen=True)
class Xid:
    """A GPU error as the kernel logged it; ``device`` is its PCI address."""

    number: int
    device: str


@dataclass(frozen=True)
class Vitals:
    """What a machine says of itself at one moment.

    ``docker_fault`` and ``gpu_fault`` are sentences, ``None`` where the part is fine, not needed or can't be asked.
    ``stuck_on`` names the part that a look has been waiting for remarkably long. ``unseen`` says as a sentence what
    could not be looked at: no ailment, but somebody should know.
    """

    disks: tuple[DiskSpace, ...] = ()
    docker_fault: str | None = None
    gpu_fault: str | None = None
    xids: tuple[Xid, ...] = ()
    stuck_on: str | None = None
    unseen: str = ""


def find_ailment(vitals: Vitals, policy: HealthPolicy) -> str | None:
    """Why the machine is not fit to take a task, as a sentence; the gravest reason if there are several."""
    for xid in vitals.xids:
        if xid.number in FATAL_XIDS:
            return f"The GPU at {xid.device} failed: Xid {xid.number}, {FATAL_XIDS[xid.number]}."
    if vitals.gpu_fault is not None:
        return vitals.gpu_fault
    if vitals.docker_fault is not None:
        return vitals.docker_fault
    for disk in vitals.disks:
        if disk.free_bytes < policy.min_free_disk_bytes:
            return (
                f"Its disk is nearly full: {_gib(disk.free_bytes)} free at {disk.path}, "
                f"and min_free_disk_gb is {_gib(policy.min_free_disk_bytes)}."
            )
    if vitals.stuck_on is not None:
        return f"Its {vitals.stuck_on} did not answer for minutes."
    return None


#: A shell's own exit codes for "cannot be executed" and "not found": about the check, not about the machine.
_NOT_RUN = (126, 127)

#: How much of a check's last output line goes into a node's reason, which stands in etcd and in one line of ``status``.
_REASON_CHARS = 200


@dataclass(frozen=True)
class CheckVerdict:
    """What a run of a check says: ``unfit`` about the machine, or ``unusable`` about the check itself; each a sentence."""

    unfit: str | None = None
    unusable: str | None = None


def judge_check(check: HealthCheck, exit_code: int | None, output: str) -> CheckVerdict:
    """Read the end of a run. A check that can't be run says nothing about the machine: all nodes of the pool would end of it.

    Args:
        check: the check that ran.
        exit_code: its shell's exit code; ``None`` if it could not be started.
        output: the end of what it printed, without secrets: it becomes a part of the verdict, which goes into etcd.
    """
    said = output.strip().splitlines()
    last = f": {said[-1][-_REASON_CHARS:]}" if said else " and printed nothing"
    if exit_code is None or exit_code in _NOT_RUN:
        return CheckVerdict(unusable=f"The check {check.name} can't be run{last}.")
    if exit_code != 0:
        return CheckVerdict(unfit=f"The check {check.name} ended with exit code {exit_code}{last}.")
    return CheckVerdict()


def hung(check: HealthCheck) -> CheckVerdict:
    """A check that hangs counts as failed, as what it looks at does not answer."""
    return CheckVerdict(unfit=f"The check {check.name} did not end within its timeout of {check.timeout_s:.0f} s.")


def in_crash_loop(deaths: tuple[float, ...], now: float) -> bool:
    """Whether one slot's agent died too often lately. ``deaths`` and ``now`` are seconds on one monotonic clock."""
    return sum(1 for at in deaths if now - at <= CRASH_LOOP_WITHIN_S) >= CRASH_LOOP_DEATHS


def _gib(number: int) -> str:
    return f"{number / 1024**3:.1f} GiB"
