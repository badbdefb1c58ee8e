"""Tasks that the server refuses to have put back: each is left alone for a while, and holds up no other.

A refusal is about the one task (its status, a broken reference, a right on its project) and says nothing of the service, which
therefore does not rest. Only so many in a row end a pass: then it may be about all of them, as with keys that were taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

import structlog

from scaler_plugin.core.model import TaskId
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import TaskServerError, TaskServerRefused
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.problems import ProblemBoard

log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")

#: What makes a server refuse goes away when a person does something, and each try is up to five calls.
LEFT_ALONE_S = 300.0
#: In a row, in one pass. The next one goes on with the tasks after them.
MOST_IN_A_ROW = 3
#: Problems that are shown one by one.
MOST_TOLD = 3


class RefusedTasks:
    def __init__(self, clock: Clock, problems: ProblemBoard, clearml: GuardedService) -> None:
        self._clock = clock
        self._problems = problems
        self._clearml = clearml
        self._refused: dict[TaskId, tuple[float, str]] = {}  # until when it is left alone, and the server's words
        self._in_a_row = 0

    def begin_pass(self) -> None:
        self._in_a_row = 0

    @property
    def enough(self) -> bool:
        """Whether this pass had better ask for no more tasks."""
        return self._in_a_row >= MOST_IN_A_ROW or self._clearml.resting()

    def left_alone(self, task_id: TaskId) -> bool:
        until, _ = self._refused.get(task_id, (float("-inf"), ""))
        return self._clock.monotonic() < until

    def ask(self, task_id: TaskId, call: Callable[[], Answer]) -> Answer | None:
        """The answer of a call about this task; ``None`` if the server refused it or can't be used."""
        if self._clearml.resting():
            return None
        try:
            answer = call()
        except TaskServerRefused as refused:
            self._in_a_row += 1
            self._refused[task_id] = (self._clock.monotonic() + LEFT_ALONE_S, str(refused))
            log.warning("task_refused", task=task_id, error=str(refused))
            return None
        except TaskServerError as error:
            self._clearml.failed(error)
            return None
        self._in_a_row = 0
        self._clearml.answered()
        return answer

    def forget_all_but(self, task_ids: Collection[TaskId]) -> None:
        """Those that nobody wants to put back any more are no problem any more."""
        self._refused = {task_id: told for task_id, told in self._refused.items() if task_id in task_ids}

    def report(self) -> None:
        """Show them, in every pass."""
        for task_id, (_, words) in list(self._refused.items())[:MOST_TOLD]:
            self._problems.report(
                f"task {task_id}",
                f"Task {task_id} is stranded, and the server refuses to have it put back: {words}",
                "It is tried again every 5 minutes. Reset and enqueue it in ClearML, or give it the tag scaler-no-rescue.",
            )
        if len(self._refused) > MOST_TOLD:
            self._problems.report(
                "rescue",
                f"{len(self._refused) - MOST_TOLD} more tasks are stranded that the server refuses to have put back.",
                "Each is tried again every 5 minutes; the log (task_refused) names them.",
            )
