"""SIGINT and SIGTERM as a flag: whatever runs ends at its next look at it, so nothing is ever cut off half-way through a start.

From the first signal on, further ones change nothing: taking the parts down takes a few seconds and must come to its end.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupted(Exception):
    """The user, or whoever started this, wants it to end. ``signal_number`` is SIGINT or SIGTERM."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted")
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal has ended."""
        return 128 + self.signal_number


class Interruption:
    def __init__(self) -> None:
        self._event = threading.Event()
        self._signal_number = 0

    def listen(self) -> None:
        """From now on SIGINT and SIGTERM only set the flag. Main thread only; for the rest of the process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupted)

    def check(self) -> None:
        """Raise :class:`Interrupted` if it is time to end."""
        if self._event.is_set():
            raise Interrupted(self._signal_number)

    def sleep(self, seconds: float) -> None:
        """Sleep, and raise :class:`Interrupted` as soon as it is time to end."""
        self._event.wait(seconds)
        self.check()

    def wait(self) -> None:
        """Wait until it is time to end."""
        while not self._event.wait(3600):
            pass

    def interrupt(self, signal_number: int = signal.SIGINT) -> None:
        """As if the signal had come."""
        self._signal_number = self._signal_number or signal_number
        self._event.set()

    def _interrupted(self, number: int, _frame: FrameType | None) -> None:
        self.interrupt(number)
