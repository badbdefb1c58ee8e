"""Tells the cluster why this machine does not become a node: an event in etcd, where ``status`` shows it and the leader counts it.

The first instance has no leader that would tell of it, so the machine speaks for itself. Guarantees: a sentence is told once,
however often the service manager tries again. It cannot tell what keeps it from etcd: that is in the instance's console alone.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

import structlog

from scaler_plugin.cloud.metadata import InstanceMetadata
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.coordination.events import START_FAILED, Event, read, record
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.core.console_output import last_lines
from scaler_plugin.core.model import InstanceId
from scaler_plugin.errors import ScalerError

log = structlog.get_logger(__name__)

#: A line for each sentence that was told in this boot.
TOLD_FILE = "told"

#: What a person would type first, with the reason in hand. Each is given little time: the machine is unfit already.
_EVIDENCE: tuple[tuple[str, ...], ...] = (
    ("df", "-h"),
    ("nvidia-smi",),
    ("journalctl", "--no-pager", "-n", "20", "-u", "docker.service"),
    ("journalctl", "--no-pager", "-n", "40", "-b", "-u", "scaler-*"),
)
_EVIDENCE_TIMEOUT_S = 5.0
#: As much of it as of a failed start's console output.
EVIDENCE_CHARS = 8_000


def tell(etcd: EtcdSettings, keys: Keys, instance: InstanceId, sentence: str, now: float) -> None:
    """Record the failure with what the machine has to say. Raises ``ScalerError`` when etcd cannot be used."""
    event = Event(now, START_FAILED, instance, sentence, last_lines(evidence(), EVIDENCE_CHARS))
    store = etcd.open()
    try:
        # A state directory that is of no use remembers nothing; then etcd does.
        if not any((told.about, told.sentence) == (instance, sentence) for told in read(store, keys)):
            record(store, keys, event)
    finally:
        store.close()


def tell_of_boot(
    etcd: EtcdSettings, keys: Keys, metadata: InstanceMetadata, error: ScalerError, directory: Path, now: float
) -> None:
    """Tell why ``boot`` failed, unless this boot has told it already. Raises nothing: it is tried again with the boot."""
    file, line = directory / TOLD_FILE, hashlib.sha256(str(error).encode()).hexdigest()
    if _has(file, line):
        return
    try:
        instance = metadata.instance_id()
        tell(etcd, keys, instance, f"Instance {instance} could not be set up: {error}", now)
    except ScalerError as away:
        log.warning("failure_not_recorded", error=str(away))
        return
    try:
        with file.open("a") as told:
            told.write(f"{line}\n")
    except OSError as unusable:
        log.warning("telling_not_remembered", error=str(unusable))


def evidence(commands: Sequence[Sequence[str]] = _EVIDENCE) -> str:
    """What the machine has to say, for the person who looks into it; what can't be asked is left out."""
    parts = []
    for command in commands:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_EVIDENCE_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        parts.append(f"$ {' '.join(command)}\n{done.stdout.decode(errors='replace').strip()}\n")
    return "\n".join(parts)


def _has(file: Path, line: str) -> bool:
    try:
        return line in file.read_text().splitlines()
    except OSError:
        return False
