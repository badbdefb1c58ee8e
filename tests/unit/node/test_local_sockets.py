"""The sidecar's two sockets, the service manager's, and the loop's sleep: on real sockets."""

from __future__ import annotations

import json
import multiprocessing
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.errors import HostError
from scaler_plugin.node.control import CONTROL_SOCKET, KNOCK_PAUSE_S, WAKE_SOCKET, ControlSockets, ask_sidecar
from scaler_plugin.node.notify import notify

DEADLINE_S = 20.0


class Loop:
    """A sidecar's loop in a thread: sleeps, and counts how often its sleep ended."""

    def __init__(self, directory: Path) -> None:
        self.sockets = ControlSockets(directory, lambda request: {"asked": request})
        self.woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            self.sockets.sleep(DEADLINE_S)
            self.woken.set()

    def close(self) -> None:
        self._stopping = True
        self.sockets.wake()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self.sockets.close()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path)
    yield made
    made.close()


def send(path: Path, line: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(path / CONTROL_SOCKET))
        client.sendall(line)
        return client.makefile("rb").readline()


def test_a_question_is_answered(loop: Loop, tmp_path: Path) -> None:
    assert ask_sidecar(tmp_path, {"ask": "report"}) == {"asked": {"ask": "report"}}


@pytest.mark.parametrize("line", [b"[1]\n", b"null\n", b"no json\n", b"\xff\xfe\n", b"[" * 60_000 + b"\n", b'{"a":1'])
def test_whatever_somebody_writes_to_the_socket_the_sidecar_goes_on(loop: Loop, tmp_path: Path, line: bytes) -> None:
    if line.endswith(b"\n"):
        assert "could not be read" in json.loads(send(tmp_path, line))["error"]
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(tmp_path / CONTROL_SOCKET))
            client.sendall(line)
    assert ask_sidecar(tmp_path, {"ask": "report"})["asked"] == {"ask": "report"}


def test_a_client_that_never_finishes_its_line_is_dropped(loop: Loop, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
        slow.settimeout(DEADLINE_S)
        slow.connect(str(tmp_path / CONTROL_SOCKET))
        slow.sendall(b"{")
        assert b"could not be read" in slow.makefile("rb").readline()
    assert ask_sidecar(tmp_path, {})["asked"] == {}


def test_any_datagram_ends_the_sleep(loop: Loop, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as knock:
        for _ in range(300):
            knock.sendto(b"x", str(tmp_path / WAKE_SOCKET))
            if loop.woken.wait(0.1):
                return
    pytest.fail("the sleep did not end")


def knock_without_end(directory: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as knock:
        knock.connect(directory)
        while True:
            knock.send(b"")


def test_whoever_knocks_without_end_gets_a_pass_each_pause_and_no_more(tmp_path: Path) -> None:
    """Counted in pauses and not in seconds: a slow machine has fewer passes, none has more."""
    sockets = ControlSockets(tmp_path, lambda _request: {})
    senders = [
        multiprocessing.get_context("spawn").Process(
            target=knock_without_end, args=(str(tmp_path / WAKE_SOCKET),), daemon=True
        )
        for _ in range(4)
    ]
    try:
        for sender in senders:
            sender.start()
        sockets.sleep(DEADLINE_S)  # until they are there
        began = time.monotonic()
        for _ in range(10):
            sockets.sleep(DEADLINE_S)
        assert time.monotonic() - began >= 10 * KNOCK_PAUSE_S
    finally:
        for sender in senders:
            sender.terminate()
            sender.join(DEADLINE_S)
        sockets.close()


def test_a_question_ends_no_sleep(loop: Loop, tmp_path: Path) -> None:
    assert ask_sidecar(tmp_path, {"ask": "report"})["asked"]
    assert not loop.woken.is_set()
    loop.sockets.wake()
    assert loop.woken.wait(DEADLINE_S)


def test_a_wake_from_another_thread_ends_the_sleep(loop: Loop) -> None:
    loop.sockets.wake()
    assert loop.woken.wait(DEADLINE_S)


def test_the_sockets_are_for_user_and_group_and_take_the_place_of_a_dead_sidecars(tmp_path: Path) -> None:
    first = ControlSockets(tmp_path, lambda _request: {})
    second = ControlSockets(tmp_path, lambda _request: {})
    for name in (WAKE_SOCKET, CONTROL_SOCKET):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o660
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_without_a_sidecar_the_question_fails_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"No sidecar answers at .*systemctl status scaler-sidecar"):
        ask_sidecar(tmp_path, {"ask": "report"})


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="Set SCALER_STATE_DIR"):
        ControlSockets(tmp_path / "file", lambda _request: {})


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_gets_one_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@scaler-test-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(DEADLINE_S)
        manager.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/notify"])
def test_a_service_manager_that_does_not_listen_is_no_error(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    value: Any = notify("WATCHDOG=1")  # type: ignore[func-returns-value]
    assert value is None
