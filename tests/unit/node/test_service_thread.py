"""A service beside the sidecar's loop outlives the errors that nobody has foreseen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from scaler_plugin.core import backoff
from scaler_plugin.node import service_thread
from scaler_plugin.node.service_thread import ServiceThread

WITHIN_S = 30.0


class Stumbling:
    """Crashes in its first steps, so many times, then works."""

    def __init__(self, crashes: int) -> None:
        self.left = crashes
        self.steps = 0
        self.works = threading.Event()

    def step(self) -> None:
        self.steps += 1
        if self.left:
            self.left -= 1
            raise KeyError("id")
        self.works.set()

    def seconds_to_next_step(self) -> float:
        return 3600.0


Start = Callable[[Stumbling], None]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def recovered() -> list[int]:
    return []


@pytest.fixture
def start(told: list[str], recovered: list[int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(backoff, "FIRST_DELAY_S", 0.001)
    threads: list[ServiceThread] = []

    def started(service: Stumbling) -> None:
        threads.append(ServiceThread("leading", service, told.append, recovered.append))
        threads[-1].start()

    yield started
    for thread in threads:
        thread.stop()
        thread._thread.join(WITHIN_S)
        assert not thread._thread.is_alive()


def test_a_service_that_crashes_goes_on_and_people_are_told_once(
    start: Start, told: list[str], recovered: list[int]
) -> None:
    service = Stumbling(crashes=4)
    start(service)
    assert service.works.wait(WITHIN_S)
    assert recovered == [1, 2, 3, 4]
    (sentence,) = told
    assert "'leading'" in sentence
    assert "KeyError" in sentence


def test_what_fails_while_a_crash_is_told_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY_S", 0.001)

    def fail(_: object) -> None:
        raise RuntimeError("etcd is away, too")

    service = Stumbling(crashes=2)
    thread = ServiceThread("leading", service, fail, fail)
    thread.start()
    assert service.works.wait(WITHIN_S)
    thread.stop()


def test_after_a_calm_time_a_crash_is_told_again(
    start: Start, told: list[str], recovered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_thread, "CALM_S", -1.0)
    service = Stumbling(crashes=2)
    start(service)
    assert service.works.wait(WITHIN_S)
    assert recovered == [1, 1]
    assert len(told) == 2


def test_a_service_that_always_crashes_can_be_stopped_in_its_pause(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY_S", 3600.0)
    monkeypatch.setattr(backoff, "LONGEST_DELAY_S", 3600.0)
    crashed = threading.Event()
    thread = ServiceThread("leading", Stumbling(1000), told.append, lambda _: crashed.set())
    thread.start()
    assert crashed.wait(WITHIN_S)
    thread.wake()
    thread.stop()
    thread._thread.join(WITHIN_S)
    assert not thread._thread.is_alive()
