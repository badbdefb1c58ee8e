"""What the GPU variant does that the others don't, with stand-ins for NVIDIA's programs and for the devices on the bus.

Not shown: that NVIDIA's own driver and toolkit do their part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .baking import PROJECT
from .machine import wait_for
from .source_image import SourceImage
from .stage import Stage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

NVIDIA_SMI = """#!/bin/sh
case $1 in
  -L) printf 'GPU 0: Stand-in\\nGPU 1: Stand-in\\n' ;;
  --query-gpu=index,memory.total) printf '0, 15360\\n1, 15360\\n' ;;
  *) exit 1 ;;
esac
"""
#: Keeps what it was called with.
NVIDIA_CTK = '#!/bin/sh\necho "$*" >>/nvidia-ctk-calls\n'


@pytest.fixture
def source(image: Path, tmp_path: Path) -> Iterator[SourceImage]:
    source = SourceImage(image, tmp_path / "source")
    yield source
    source.remove()


#: The step as provision.sh runs it.
GPU_STEP = """
fail() { echo "$*" >&2; exit 1; }
. /etc/os-release
SCALER_GPU_DRIVER=present
. /bundle/ami/steps/gpu.sh
"""


def test_a_source_image_with_driver_and_toolkit_passes_and_docker_is_told_of_the_toolkit(source: SourceImage) -> None:
    source.add_program("nvidia-smi", NVIDIA_SMI)
    source.add_program("nvidia-ctk", NVIDIA_CTK)
    done = source.sh(GPU_STEP)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (source.root / "nvidia-ctk-calls").read_text() == "runtime configure --runtime=docker\n"


def test_a_bake_that_expects_the_driver_and_does_not_find_it_ends_with_a_sentence(source: SourceImage) -> None:
    done = source.sh("SCALER_VARIANT=gpu SCALER_GPU_DRIVER=present sh /bundle/ami/provision.sh bake")
    assert done.returncode == 1
    assert (
        "scaler-sidecar: SCALER_GPU_DRIVER=present, but this source image has no nvidia-smi: choose one" in done.stderr
    )
    assert done.stdout.splitlines()[-1] == "scaler-sidecar: gpu"


class GpuStage(Stage):
    """Two GPUs on the bus. ``+`` is the machine's own tree."""

    machine_options = ("--bind-ro=+/var/lib/stand-in-pci:/sys/bus/pci/devices",)

    def __init__(self, image: Path, folder: Path, name: str) -> None:
        super().__init__(image, folder, name)
        for number in range(2):
            device = f"/var/lib/stand-in-pci/0000:00:0{number}.0"
            self.file(f"{device}/vendor", "0x10de\n")
            self.file(f"{device}/class", "0x030200\n")
        # NVML's Python package without NVML: then nvidia-smi is asked.
        (pynvml,) = self.machine.root.glob("opt/scaler-sidecar/venv/lib/python3*/site-packages/pynvml.py")
        self.file(str(pynvml.relative_to(self.machine.root)), "raise ImportError\n")


@pytest.fixture
def stage(image: Path, tmp_path: Path, artifacts: Path) -> Iterator[Stage]:
    stage = GpuStage(image, tmp_path / "stage", f"ami-gpu-{os.getpid()}")
    try:
        yield stage
    finally:
        (artifacts / "console-gpu.log").write_text(stage.machine.console)
        stage.close()


GPUS_SEEN = "/var/lib/clearml/gpus-seen"
#: Ends when the other has written, too: so each runs on a slot of its own.
SHOWS_ITS_GPUS = f"""
import os, time
with open("{GPUS_SEEN}", "a") as file:
    file.write(os.environ["CLEARML_WORKER_ID"][-1] + " sees " + os.environ["NVIDIA_VISIBLE_DEVICES"] + "\\n")
while len(open("{GPUS_SEEN}").readlines()) < 2:
    time.sleep(0.2)
"""


def test_the_agents_of_a_node_share_its_gpus(stage: Stage) -> None:
    stage.file("/usr/local/bin/nvidia-smi", NVIDIA_SMI, 0o755)
    stage.push_config(cpu_only=False, slots_per_node=2, idle_timeout="never")
    stage.launch()
    for slot in range(2):
        stage.wait_polling(slot)
    tasks = [stage.enqueue(SHOWS_ITS_GPUS) for _ in range(2)]
    for task in tasks:
        wait_for("the task has ended", lambda task=task: stage.task_status(task) in ("completed", "failed"))
    assert sorted(stage.machine.run("cat", GPUS_SEEN).splitlines()) == ["0 sees 0", "1 sees 1"]


def test_a_node_with_gpus_and_no_driver_says_so_and_ends(stage: Stage) -> None:
    gate = (PROJECT / "ami/start_node.py").read_text()
    assert "PATIENCE_S = 60.0" in gate
    stage.file("/usr/lib/scaler-sidecar/start-node", gate.replace("PATIENCE_S = 60.0", "PATIENCE_S = 1.0"), 0o755)
    stage.push_config(cpu_only=False)
    stage.launch()
    assert stage.machine.wait_ended(180) == 0
    sentence = "This instance has NVIDIA GPUs, but nvidia-smi lists none."
    assert sentence in stage.machine.console
    assert sentence in stage.sidecar_command("status", "--json")
