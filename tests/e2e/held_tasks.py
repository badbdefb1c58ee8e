"""Tasks that run until a file appears: what a test does while they run can take as long as it likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from scaler_plugin.localcloud.demo import tasks as demo_tasks
from scaler_plugin.localcloud.demo.scene import TaskSeen
from scaler_plugin.localcloud.demo.tasks import DemoTasks

from ..waiting import PATIENCE_S

#: The file that the tasks run, as a process's arguments show it.
ENTRY_POINT = "sleep.py"
#: The last line of a task that was let go, on its console.
LET_GO = "was let go"

_SCRIPT = f"""\
import os, time

while not os.path.exists(RELEASE):
    time.sleep(0.1)
print("{LET_GO}", flush=True)
"""


class HeldTasks:
    """``release`` is the file; it must not exist yet, and lies where every machine sees it."""

    def __init__(self, environment: Mapping[str, str], release: Path) -> None:
        with patch.object(demo_tasks, "TIMEOUT_S", PATIENCE_S):
            self._tasks = DemoTasks(environment)
        self._release = release

    def enqueue(self, number: int, queues: Sequence[str]) -> None:
        """Put so many tasks into the queues in turn."""
        with patch.object(demo_tasks, "SCRIPT", _SCRIPT.replace("RELEASE", repr(str(self._release)))):
            self._tasks.enqueue(number, queues, 0)

    def let_go(self) -> None:
        """Let all of them come to their end, also those that start later."""
        self._release.touch()

    def look(self) -> tuple[TaskSeen, ...]:
        """As ClearML has them now. Raises ``TaskServerError``."""
        return self._tasks.look()

    def close(self) -> None:
        self._tasks.close()
