"""Waiting for what comes about by itself, as real servers and processes need more or less time for it.

The patience guards against waiting for ever and claims nothing: what comes about in time costs no time, so it is long enough for a
host on which everything runs at once. Who waits for a state that may pass by between two looks waits for its record instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: For what a server that runs answers, and what a process does that is up.
PATIENCE_S = 60.0
#: For what has to be started first: processes, agents, machines, installations.
STARTING_S = 240.0

_LOOK_EVERY_S = 0.05


def until(
    condition: Callable[[], T],
    what: str = "",
    patience_s: float = PATIENCE_S,
    *,
    seen: Callable[[], object] | None = None,
    every_s: float = _LOOK_EVERY_S,
) -> T:
    """Ask until the answer is true, and return it. Raises ``AssertionError`` with what did not happen and what ``seen`` says."""
    deadline = time.monotonic() + patience_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            shown = f"; seen at last: {seen()}" if seen is not None else ""
            raise AssertionError(f"within {patience_s:g} s it did not happen: {what or 'the condition'}{shown}")
        time.sleep(every_s)
    return answer
