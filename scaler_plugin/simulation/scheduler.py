"""Processes on one virtual clock: each runs plain, blocking code in a greenlet, and sleeping lets the others run.

Guarantees: with the same program and seed everything happens in the same order; a killed process executes nothing any more, not
even a ``finally`` (as after SIGKILL); a paused one goes on where it stopped (as after SIGSTOP and SIGCONT).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from greenlet import getcurrent, greenlet

from scaler_plugin.simulation.clock import VirtualClock


class SimProcess:
    """A group of threads that live, pause and die together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused_until = 0.0  # monotonic

    def kill(self) -> None:
        """End it at once; if it is the caller itself, its code stops at its next sleep."""
        self.alive = False


class _Thread:
    def __init__(self, process: SimProcess, body: Callable[[], None], hub: greenlet) -> None:
        self.process = process
        self.ticket = 0  # the wake-up that is valid; an earlier poke makes the later timeout stale
        self.pokable = False
        self.greenlet = greenlet(body, parent=hub)


class Scheduler:
    """Runs threads in order of their wake-up times. All of one world's code runs in one thread of the interpreter."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self._queue: list[tuple[float, int, _Thread | Callable[[], object], int]] = []
        self._numbers = itertools.count()
        self._hub = getcurrent()
        self._threads: dict[greenlet, _Thread] = {}
        # A greenlet that is collected would run its ``finally`` blocks: the dead are kept until the world ends.
        self._dead: list[greenlet] = []

    def spawn(self, process: SimProcess, body: Callable[[], None]) -> Callable[[], None]:
        """Start a thread of the process; the result pokes it: its present :meth:`sleep` ends early."""
        thread = _Thread(process, body, self._hub)
        self._threads[thread.greenlet] = thread
        self._schedule(thread, 0.0)
        return lambda: self._poke(thread)

    def call_later(self, delay_s: float, action: Callable[[], object]) -> None:
        """Run a short action, which must not sleep, after so long."""
        heapq.heappush(self._queue, (self.clock.monotonic() + delay_s, next(self._numbers), action, 0))

    def sleep(self, seconds: float, *, pokable: bool = False) -> None:
        """Let the calling thread rest; others run meanwhile. Outside of a thread this is an error."""
        thread = self._threads[getcurrent()]
        thread.pokable = pokable
        self._schedule(thread, seconds)
        self._hub.switch()

    @property
    def in_thread(self) -> bool:
        """Whether the caller is a thread of this world, which may sleep; the world's own code may not."""
        return getcurrent() in self._threads

    @property
    def process(self) -> SimProcess | None:
        """The process of the thread that calls; ``None`` for the world's own code."""
        thread = self._threads.get(getcurrent())
        return thread.process if thread is not None else None

    def next_due(self) -> float | None:
        """When (monotonic) the next thread or action is due."""
        return self._queue[0][0] if self._queue else None

    def run_one(self) -> None:
        """Run what is due next, up to its next sleep. The clock must have been moved there."""
        due, _, item, ticket = heapq.heappop(self._queue)
        if not isinstance(item, _Thread):
            item()
            return
        if item.ticket != ticket:
            return
        process = item.process
        if not process.alive:
            self._bury(item)
        elif process.paused_until > due:
            self._schedule(item, process.paused_until - self.clock.monotonic(), same_ticket=True)
        else:
            item.pokable = False
            item.greenlet.switch()
            if item.greenlet.dead:
                self._threads.pop(item.greenlet, None)

    def close(self) -> None:
        """Forget every thread without running it again."""
        for thread in list(self._threads.values()):
            self._bury(thread)
        self._queue.clear()

    def _poke(self, thread: _Thread) -> None:
        if thread.pokable:
            thread.pokable = False
            self._schedule(thread, 0.0)

    def _schedule(self, thread: _Thread, delay_s: float, same_ticket: bool = False) -> None:
        if not same_ticket:
            thread.ticket += 1
        due = self.clock.monotonic() + max(0.0, delay_s)
        heapq.heappush(self._queue, (due, next(self._numbers), thread, thread.ticket))

    def _bury(self, thread: _Thread) -> None:
        self._threads.pop(thread.greenlet, None)
        self._dead.append(thread.greenlet)
