"""The health gate: what keeps a node from starting its agents."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.core.model import InstanceId, NodeIdentity, NodeRole, PoolName
from scaler_plugin.node.setup import NodeSetup, write_setup

SCRIPT = Path(__file__).parents[3] / "ami" / "start_node.py"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("start_node", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "start_node", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PATIENCE_S", 0.5)
    return module


def programs(monkeypatch: pytest.MonkeyPatch, folder: Path, **exits: int) -> None:
    """Only these programs are found, each with its exit code."""
    for name, code in exits.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\nexit {code}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_it_reads_what_boot_wrote(gate: ModuleType, tmp_path: Path) -> None:
    identity = NodeIdentity("test", InstanceId("i-1"), NodeRole.WORKER, PoolName("cpu"))
    etcd = EtcdSettings(("127.0.0.1:1",))
    write_setup(tmp_path, NodeSetup(identity, etcd, "scaler", slots=3, docker_image="python:3.12", cpu_only=True))
    assert gate.read_node(tmp_path) == gate.Node(slots=3, docker=True, cpu_only=True)
    write_setup(tmp_path, NodeSetup(identity, etcd, "scaler"))
    assert gate.read_node(tmp_path) == gate.Node(slots=1, docker=False, cpu_only=False)


def test_a_pool_with_containers_needs_docker_in_the_image(
    gate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch, tmp_path)
    with pytest.raises(gate.Unfit, match="this image has no docker"):
        gate.check_docker()


def test_docker_must_answer(gate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(monkeypatch, tmp_path, dockerd=0, systemctl=0, docker=1)
    with pytest.raises(gate.Unfit, match="docker does not answer"):
        gate.check_docker()
    programs(monkeypatch, tmp_path, docker=0)
    gate.check_docker()


def test_on_a_stock_image_docker_comes_when_the_pool_wants_it(
    gate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch, tmp_path, systemctl=0, docker=0, install=0)
    monkeypatch.setattr(gate, "INSTALL_DOCKER", tmp_path / "install")
    gate.check_docker()
    programs(monkeypatch, tmp_path, install=1)
    with pytest.raises(gate.Unfit, match="docker could not be installed"):
        gate.check_docker()


def test_on_a_stock_image_that_has_docker_it_is_set_up_too(
    gate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch, tmp_path, dockerd=0, systemctl=0, docker=0)
    install = tmp_path / "install"
    install.write_text(f"#!/bin/sh\n: >{tmp_path}/set-up\n")
    install.chmod(0o755)
    monkeypatch.setattr(gate, "INSTALL_DOCKER", install)
    gate.check_docker()
    assert (tmp_path / "set-up").exists()
    programs(monkeypatch, tmp_path, install=1)
    with pytest.raises(gate.Unfit, match="docker could not be installed or set up"):
        gate.check_docker()


def test_gpus_need_a_driver_that_lists_them_and_containers_the_toolkit(
    gate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch, tmp_path, nvidia_smi=9)
    with pytest.raises(gate.Unfit, match="nvidia-smi lists none"):
        gate.check_gpus(docker=False)
    programs(monkeypatch, tmp_path, nvidia_smi=0)
    gate.check_gpus(docker=False)
    with pytest.raises(gate.Unfit, match="lacks the NVIDIA container toolkit"):
        gate.check_gpus(docker=True)


def test_the_devices_for_cuda_are_made_by_root_as_tasks_may_not(
    gate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch, tmp_path, nvidia_smi=0)
    (tmp_path / "nvidia-modprobe").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\nexit 1\n')
    (tmp_path / "nvidia-modprobe").chmod(0o755)
    gate.check_gpus(docker=False)
    assert (tmp_path / "asked").read_text() == "-c0 -u\n"


def test_a_gpu_is_found_on_the_bus_without_any_driver(gate: ModuleType, tmp_path: Path) -> None:
    for name, vendor, kind in (("0", "0x1d0f", "0x020000"), ("1", "0x10de", "0x040300")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert not gate.has_nvidia_gpu(tmp_path)  # a network card, and the sound device of a GPU
    (tmp_path / "1" / "class").write_text("0x030200\n")
    assert gate.has_nvidia_gpu(tmp_path)
