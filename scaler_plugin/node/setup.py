"""What this machine was set up as, written once per boot to ``<state-dir>/node.json`` and read by sidecar and agents.

It holds no secret. The directory is of this boot only (``/run``), so a file that exists describes the running machine.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.coordination.codec import decode, encode
from scaler_plugin.core.model import NodeIdentity, QueueName, WorkerId
from scaler_plugin.errors import HostError, StoreError

DEFAULT_STATE_DIR = Path("/run/scaler-sidecar")
FILE_NAME = "node.json"


@dataclass(frozen=True)
class NodeSetup:
    """``etcd`` and ``prefix`` say where the cluster's keys are; the rest is the pool's configuration at boot."""

    identity: NodeIdentity
    etcd: EtcdSettings
    prefix: str
    slots: int = 1
    queues: tuple[QueueName, ...] = ()
    docker_image: str | None = None
    cpu_only: bool = False
    gpus: int = 0  # how many NVIDIA GPUs the machine has, as of its boot
    freeze: bool = False  # agents run without the plugin
    region: str | None = None  # of a standby that was given a file: where AWS keeps what its `etcd` refers to

    @property
    def worker_ids(self) -> tuple[WorkerId, ...]:
        """The ClearML worker id of each slot."""
        return tuple(self.identity.worker_id(slot, self.slots) for slot in range(self.slots))


def state_dir() -> Path:
    """Where this boot's state is: ``SCALER_STATE_DIR``, else ``/run/scaler-sidecar``."""
    return Path(os.environ.get("SCALER_STATE_DIR") or DEFAULT_STATE_DIR)


def write_setup(directory: Path, setup: NodeSetup) -> None:
    """Write ``node.json`` atomically: whoever sees it sees all of it."""
    path = directory / FILE_NAME
    scratch = path.with_suffix(".tmp")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        scratch.write_text(encode(setup))
        scratch.chmod(0o644)
        scratch.replace(path)
    except OSError as error:
        raise HostError(
            f"The machine's setup could not be written to {path}: {error}. Run as a user who may."
        ) from error


def read_setup(directory: Path) -> NodeSetup:
    """Read ``node.json``; raises ``HostError`` with what to do when the machine has not been set up."""
    path = directory / FILE_NAME
    try:
        return decode(NodeSetup, path.read_text())
    except FileNotFoundError:
        raise HostError(
            f"This machine has not been set up: {path} does not exist. `scaler-sidecar boot` writes it from the instance's "
            "user-data; on a machine that is no worker, use `scaler-sidecar run --standby`."
        ) from None
    except PermissionError:
        raise HostError(
            f"{path} says what this machine is, and is not for this user to read: call this with sudo."
        ) from None
    except (OSError, StoreError) as error:
        raise HostError(f"{path} cannot be read: {error}. Run `scaler-sidecar boot` again.") from error


def set_up_at(directory: Path) -> float:
    """When this boot was set up (epoch seconds): the age of an instance that never restarts. Now, where it has not been yet."""
    try:
        return (directory / FILE_NAME).stat().st_mtime
    except OSError:
        return time.time()
