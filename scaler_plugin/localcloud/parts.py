"""The servers of a local cloud, kept running: one that dies is started again on its port, with its data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from scaler_plugin.errors import HostError

log = structlog.get_logger(__name__)

#: A service manager would wait about so long before it starts a dead server again.
RESTART_AFTER_S = 2.0
_LOOK_INTERVAL_S = 0.25


@dataclass(frozen=True)
class Part:
    """A server by what can be done with it. ``start`` and ``restart`` wait until it answers."""

    name: str
    start: Callable[[], object]
    restart: Callable[[], object]
    stop: Callable[[], None]
    kill: Callable[[], None]
    running: Callable[[], bool]


class PartKeeper:
    """Looks after the parts from a thread of its own, from :meth:`start` to :meth:`stop`."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self._parts = {part.name: part for part in parts}
        self._away_until: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="part-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Restart nothing any more. Harmless when called twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def outage(self, name: str, seconds: float) -> None:
        """Kill the part as a power failure would, and start it again after so long."""
        with self._lock:
            self._away_until[name] = time.monotonic() + seconds
            self._parts[name].kill()

    def running(self, name: str) -> bool:
        return self._parts[name].running()

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_INTERVAL_S):
            for part in self._parts.values():
                with self._lock:
                    self._look_after(part)

    def _look_after(self, part: Part) -> None:
        if part.running():
            return
        until = self._away_until.setdefault(part.name, time.monotonic() + RESTART_AFTER_S)
        if time.monotonic() < until:
            return
        del self._away_until[part.name]
        try:
            part.restart()
            log.info("part_started_again", part=part.name)
        except HostError as error:
            log.error("part_not_started", part=part.name, error=str(error))
