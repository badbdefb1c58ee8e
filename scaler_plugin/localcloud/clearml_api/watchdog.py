"""The server's watchdog: a running task that nobody has reported for too long is stopped, and never queued again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from scaler_plugin.localcloud.clearml_api.call import Call
from scaler_plugin.localcloud.clearml_api.task_status import change_status

#: The real server's threshold and period. The period shrinks with the threshold so that a short one is of use.
SILENT_S = 7200.0
PERIOD_S = 900.0
FORCED_STOP = "Forced stop (non-responsive)"


def stop_silent_tasks(call: Call, silent_s: float) -> list[str]:
    """Stop the running tasks that were silent for so long; return their ids. Queued tasks are none of its business."""
    stopped = []
    for task in call.tasks.values():
        heard = datetime.fromisoformat(task["last_update"])
        if task["status"] != "in_progress" or (call.now - heard).total_seconds() < silent_s:
            continue
        change_status(call, task, "stopped", status_reason=FORCED_STOP, status_message=FORCED_STOP)
        task["last_changed_by"] = "__apiserver__"
        stopped.append(str(task["id"]))
    return stopped


class Watchdog(threading.Thread):
    """Runs the check until told to end."""

    def __init__(self, new_call: Callable[[str], Call], silent_s: float = SILENT_S) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._new_call = new_call
        self._silent_s = silent_s
        self._period_s = min(PERIOD_S, silent_s / 4)
        self._ended = threading.Event()

    def run(self) -> None:
        """Check, wait, and so on."""
        while not self._ended.wait(self._period_s):
            call = self._new_call("watchdog")
            with call.state.transaction():
                stop_silent_tasks(call, self._silent_s)

    def end(self) -> None:
        """Stop checking."""
        self._ended.set()
