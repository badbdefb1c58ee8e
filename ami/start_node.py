#!/usr/bin/python3 -I
"""After ``scaler-sidecar boot``: check that this machine can do what its pool wants, then start its sidecar and agents.

Tasks in containers need a docker that answers, and an instance with NVIDIA GPUs whose pool uses them a driver that lists them. Then
the health gate of ``scaler-sidecar health`` looks at the rest, the pool's own checks too. A node that fails starts no agent, so it
takes no task: the gate puts the sentence into etcd and ends the machine. The sentence is in the instance's console output as well.

Standard library only. Runs as root, once per boot, from scaler-bootstrap.service.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

STATE_DIR = Path("/run/scaler-sidecar")
DROP_IN = Path("/run/systemd/system/clearml-agent@.service.d/docker.conf")
#: On stock images only: brings docker when the pool turns out to want it, and sets it up where the image has one already.
INSTALL_DOCKER = Path("/usr/lib/scaler-sidecar/install-docker")

HEALTH_GATE = ("/usr/local/bin/scaler-sidecar", "health", "--gate")

#: The GPU driver may load after this unit, and docker takes some seconds to start: they get a minute before it counts as a failure.
PATIENCE_S = 60.0

#: Only where the pool uses docker: who reaches its socket is root.
DOCKER_SETTINGS = "[Service]\nSupplementaryGroups=docker\n"


class Unfit(Exception):
    """This machine can't do what its pool wants. The text is for the person who reads the console output."""


@dataclass(frozen=True)
class Node:
    """What of ``node.json`` matters here."""

    slots: int
    docker: bool
    cpu_only: bool


def read_node(directory: Path) -> Node:
    value = json.loads((directory / "node.json").read_text())
    return Node(value["slots"], value["docker_image"] is not None, value["cpu_only"])


def succeeds(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, timeout=PATIENCE_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def becomes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def has_nvidia_gpu(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether a display controller (class 03) of NVIDIA's (vendor 10de) is on the PCI bus, driver or not."""
    return any(
        (device / "vendor").read_text().strip() == "0x10de" and (device / "class").read_text().startswith("0x03")
        for device in devices.glob("*")
    )


def check_docker() -> None:
    if INSTALL_DOCKER.exists():
        if subprocess.run([INSTALL_DOCKER], check=False).returncode != 0:
            raise Unfit(
                "The pool runs tasks in docker containers, and docker could not be installed or set up; see above."
            )
    elif shutil.which("dockerd") is None:
        raise Unfit("The pool runs tasks in docker containers, and this image has no docker. Bake the image again.")
    subprocess.run(["systemctl", "start", "docker.service"], check=False)
    if not becomes_true(lambda: succeeds(["docker", "version"])):
        raise Unfit("The pool runs tasks in docker containers, and docker does not answer; see `journalctl -u docker`.")


def make_gpu_devices() -> None:
    """Load the driver with its part for CUDA and make the devices, as a program that needs them would.

    The program that does so is setuid, and so of no use to agents and tasks, which run without new privileges.
    """
    if shutil.which("nvidia-modprobe") is not None:
        succeeds(["nvidia-modprobe", "-c0", "-u"])


def check_gpus(docker: bool) -> None:
    make_gpu_devices()
    if not becomes_true(lambda: succeeds(["nvidia-smi", "-L"])):
        raise Unfit(
            "This instance has NVIDIA GPUs, but nvidia-smi lists none. Use an image of the GPU variant, or make the pool cpu_only."
        )
    if docker and shutil.which("nvidia-container-runtime") is None:
        raise Unfit("Tasks in containers would see no GPU: the image lacks the NVIDIA container toolkit.")


def start(node: Node) -> None:
    if node.docker:
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        DROP_IN.write_text(DOCKER_SETTINGS)
    else:
        DROP_IN.unlink(missing_ok=True)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    agents = [f"clearml-agent@{slot}.service" for slot in range(node.slots)]
    # Not waited for: they are ordered after the unit that this script belongs to.
    subprocess.run(["systemctl", "start", "--no-block", "scaler-sidecar.service", *agents], check=True)


def main() -> int:
    node = read_node(STATE_DIR)
    try:
        if node.docker:
            check_docker()
        if has_nvidia_gpu() and not node.cpu_only and node.slots:
            check_gpus(node.docker)
    except Unfit as unfit:
        print(f"scaler-bootstrap: {unfit}", file=sys.stderr)
        subprocess.run([*HEALTH_GATE, "--unfit", str(unfit)], check=False)
        return 1
    if subprocess.run(HEALTH_GATE, check=False).returncode != 0:
        return 1  # it has said why, and ends the machine
    start(node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
