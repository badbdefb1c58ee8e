"""What a machine says of itself: disk, docker, GPUs, the kernel's log; and that a look that hangs is only a sign."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scaler_plugin.agent.container_groups import living_groups, may_be_of
from scaler_plugin.agent.processes import ContainersUnknown, living_containers
from scaler_plugin.core.health import Vitals, Xid
from scaler_plugin.node.docker_ping import docker_fault
from scaler_plugin.node.gpus import GpuAnswers, expected_gpus
from scaler_plugin.node.kernel_log import KernelLog
from scaler_plugin.node.vitals import (
    LOOK_EVERY_S,
    STUCK_AFTER_ASKED,
    STUCK_AFTER_S,
    Equipment,
    VitalSigns,
    VitalsWatch,
    disk_space,
)
from scaler_plugin.simulation.clock import VirtualClock

CONTAINER = "0123456789abcdef" * 4


def pci(folder: Path, *devices: tuple[str, str]) -> Path:
    for number, (vendor, kind) in enumerate(devices):
        device = folder / f"0000:00:{number:02x}.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    return folder


@pytest.mark.parametrize(
    ("instance_type", "devices", "expected"),
    [
        ("p4d.24xlarge", [("0x10de", "0x030200")] * 8 + [("0x1d0f", "0x020000")], 8),
        ("g5.xlarge", [("0x10de", "0x030200")], 1),
        ("g5.xlarge", [], 1),
        ("p5en.48xlarge", [], 1),
        ("g4ad.xlarge", [], 0),
        ("c5.large", [("0x10de", "0x040300")], 0),
        ("c5.large", [], 0),
    ],
)
def test_the_gpus_a_machine_should_have_are_those_on_its_bus_and_one_at_least_where_the_type_has_some(
    tmp_path: Path, instance_type: str, devices: list[tuple[str, str]], expected: int
) -> None:
    assert expected_gpus(instance_type, pci(tmp_path, *devices)) == expected


def on_the_path(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


@pytest.fixture
def no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.mark.usefixtures("no_nvml")
@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("echo '0, 15360'; echo '1, 15360'", None),
        ("echo '0, 15360'; echo '1, [GPU is lost]'", "1 of its 2 GPUs answer."),
        ("echo 'No devices were found'; exit 6", "0 of its 2 GPUs answer: No devices were found."),
        ("echo 'Unable to determine the device handle' >&2; exit 15", "Unable to determine the device handle"),
    ],
)
def test_nvidia_smi_tells_how_many_gpus_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, fault: str | None
) -> None:
    on_the_path(monkeypatch, tmp_path, "nvidia-smi", script)
    said = GpuAnswers(2).fault()
    assert said is None if fault is None else fault in (said or "")


@pytest.mark.usefixtures("no_nvml")
def test_a_machine_with_gpus_and_nothing_to_ask_them_by_is_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "nvidia-smi is installed" in (GpuAnswers(1).fault() or "")
    assert GpuAnswers(0).fault() is None


def test_nvml_tells_of_a_gpu_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml: Any = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def memory(handle: int) -> int:
        if handle == 1:
            raise NVMLError("GPU is lost")
        return 1

    nvml.NVMLError, nvml.nvmlInit, nvml.nvmlDeviceGetCount = NVMLError, lambda: None, lambda: 2
    nvml.nvmlDeviceGetHandleByIndex, nvml.nvmlDeviceGetMemoryInfo = (lambda index: index), memory
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert GpuAnswers(2).fault() == "1 of its 2 GPUs answer: GPU 1: GPU is lost."
    assert GpuAnswers(1).fault() is None


def test_errors_of_the_gpu_driver_are_found_in_the_kernels_log_once_each(tmp_path: Path) -> None:
    pipe = tmp_path / "kmsg"
    os.mkfifo(pipe)
    log = KernelLog(pipe)
    writer = os.open(pipe, os.O_RDWR)
    try:
        assert log.xids() == ()
        line = b"4,1,2,-;NVRM: Xid (PCI:0000:00:1e): 79, pid='<unknown>', GPU has fallen off the bus.\n"
        os.write(writer, b"6,0,1,-;usb 1-1: new device\n" + line)
        assert log.xids() == (Xid(79, "0000:00:1e"),)
        os.write(writer, line)
        assert log.xids() == (Xid(79, "0000:00:1e"),)
    finally:
        log.close()
        os.close(writer)


def test_the_real_kernels_log_can_be_read_to_its_end() -> None:
    log = KernelLog()
    assert isinstance(log.xids(), tuple)
    log.close()


def test_a_kernels_log_that_may_not_be_read_is_a_sentence_where_gpus_are_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = KernelLog(tmp_path / "missing")
    assert log.xids() == ()
    assert "No such file" in log.unreadable
    monkeypatch.setattr("scaler_plugin.node.vitals.KernelLog", lambda: KernelLog(tmp_path / "missing"))
    unseen = VitalSigns(Equipment(gpus=1)).look().unseen
    assert "errors of its GPUs (Xid) are not seen" in unseen
    assert "CAP_SYSLOG" in unseen
    assert VitalSigns(Equipment()).look().unseen == ""


class DockerSocket:
    """A docker daemon that answers one ping with this."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, args=(answer,), daemon=True)
        self._thread.start()

    def _serve(self, answer: bytes) -> None:
        client, _ = self._socket.accept()
        with client:
            client.recv(1024)
            client.sendall(answer)

    def close(self) -> None:
        self._thread.join()
        self._socket.close()


@pytest.mark.parametrize(
    ("answer", "fault"),
    [(b"HTTP/1.0 200 OK\r\n\r\nOK", None), (b"HTTP/1.0 500 Internal Server Error\r\n\r\n", "500")],
)
def test_docker_is_asked_over_its_socket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes, fault: str | None
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    assert "does not run" in (docker_fault() or "")
    daemon = DockerSocket(tmp_path / "docker.sock", answer)
    said = docker_fault()
    daemon.close()
    assert said is None if fault is None else fault in (said or "")
    assert "does not answer" in (docker_fault() or "")


def test_the_space_of_one_disk_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (disk,) = disk_space((str(tmp_path), str(tmp_path / "inner"), str(tmp_path / "missing")))
    status = os.statvfs(tmp_path)
    assert disk.path == str(tmp_path)
    assert abs(disk.free_bytes - status.f_bavail * status.f_frsize) < 1024**3


class HangingSigns(VitalSigns):
    def __init__(self) -> None:
        super().__init__(Equipment())
        self.go = threading.Event()
        self.looks = 0

    def look(self) -> Vitals:
        self.looks += 1
        self.at = "GPUs"
        self.go.wait(60)
        self.at = ""
        return Vitals(docker_fault="seen")


def test_a_look_that_hangs_holds_nobody_up_is_not_made_twice_and_is_a_sign_in_the_end() -> None:
    clock, signs = VirtualClock(), HangingSigns()
    watch = VitalsWatch(signs, clock)
    for _ in range(STUCK_AFTER_ASKED):
        assert watch.latest() == Vitals()
        clock.advance(1)
    clock.advance(STUCK_AFTER_S)
    watch.latest()
    assert watch.latest().stuck_on == "GPUs"
    assert signs.looks == 1
    signs.go.set()
    assert watch._thread is not None
    watch._thread.join(10)
    clock.advance(1)
    watch.latest()
    watch._thread.join(10)
    assert watch.latest().docker_fault == "seen"
    assert watch.latest().stuck_on is None


def test_a_machine_that_stood_still_itself_blames_no_part_of_it() -> None:
    clock, signs = VirtualClock(), HangingSigns()
    watch = VitalsWatch(signs, clock)
    watch.latest()
    clock.advance(3600)
    assert watch.latest().stuck_on is None
    signs.go.set()


def test_a_machine_without_room_for_one_more_thread_is_looked_at_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    clock, signs = VirtualClock(), HangingSigns()
    signs.go.set()
    watch = VitalsWatch(signs, clock)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_room)
        assert watch.latest() == Vitals()
    clock.advance(LOOK_EVERY_S)
    watch.latest()
    assert watch._thread is not None
    watch._thread.join(10)
    assert watch.latest().docker_fault == "seen"


def in_proc(folder: Path, pid: int, group: str) -> None:
    (folder / str(pid)).mkdir(parents=True)
    (folder / str(pid) / "cgroup").write_text(f"0::{group}\n")


@pytest.mark.parametrize("group", [f"/system.slice/docker-{CONTAINER}.scope", f"/docker/{CONTAINER}/init"])
def test_a_living_container_is_found_without_docker(tmp_path: Path, group: str) -> None:
    in_proc(tmp_path, 1, "/init.scope")
    in_proc(tmp_path, 77, group)
    assert living_groups(tmp_path) == (CONTAINER,)


@pytest.mark.parametrize(
    ("labels", "ours"),
    [('{"clearml-worker-id": "w:0"}', True), ('{"clearml-worker-id": "other"}', False), ("null", False)],
)
def test_dockers_own_file_tells_whose_a_container_is(tmp_path: Path, labels: str, ours: bool) -> None:
    (tmp_path / CONTAINER).mkdir()
    (tmp_path / CONTAINER / "config.v2.json").write_text(f'{{"Config": {{"Labels": {labels}}}}}')
    assert may_be_of(CONTAINER, "w:0", tmp_path) is ours


def test_a_container_whose_file_cannot_be_read_may_be_anybodys(tmp_path: Path) -> None:
    assert may_be_of(CONTAINER, "w:0", tmp_path)


def test_a_dead_docker_without_a_living_container_leaves_no_doubt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_the_path(monkeypatch, tmp_path, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    monkeypatch.setattr("scaler_plugin.agent.processes.living_groups", lambda: ())
    assert living_containers("w:0") == ()
    monkeypatch.setattr("scaler_plugin.agent.processes.living_groups", lambda: (CONTAINER,))
    with pytest.raises(ContainersUnknown, match="Cannot connect"):
        living_containers("w:0")
