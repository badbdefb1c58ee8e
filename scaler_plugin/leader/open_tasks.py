"""Reads the open tasks for a rescue: all with one request while they are few, in portions while they are many.

A backlog of 100,000 tasks is 200 requests. The leader makes them in its own thread, so a pass takes only as many as fit its
:data:`PORTION_S`, and who has read a listing to its end leaves the server alone for ten times as long as that took. Those in
progress are listed apart from those that are queued: they are as few as there are agents, and their rescues are the urgent ones.

Guarantees: tasks that are named as suspects are read at each sweep, whatever else there is to read. Not guaranteed: that a
portion holds a certain task, so that its absence says nothing unless :attr:`Portion.covers` says so; nor that a walk meets
every task: one that changes pages between two requests may be met by the next walk only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from scaler_plugin.core.model import QueueName, ServerTask, TaskId, TaskStatus
from scaler_plugin.core.ports import Clock, TaskServer
from scaler_plugin.leader.guarded import GuardedService

#: A pass begins no further page after this: with a page's own time it stays far below a leader's interval.
PORTION_S = 1.0
#: … nor after so many, however fast the server is.
PORTION_PAGES = 10
#: Of the time of a long listing, so many times are left to the server and to the rest of a pass …
REST_TIMES = 10.0
#: … but not for longer than this.
LONGEST_REST_S = 600.0
#: What one request for named tasks may hold.
MOST_SUSPECTS = 500
#: So many open tasks are read with one request again: half a page, so that it does not go to and fro.
FEW = 250
#: Of the queued tasks, who looks only once reads so many pages.
QUEUED_PAGES = 4


@dataclass(frozen=True)
class Portion:
    """What one pass has read, after the backlogs of the same pass.

    ``whole``: all open tasks. ``asked``: those that would be among ``tasks`` if they were open.
    """

    tasks: tuple[ServerTask, ...]
    whole: bool
    asked: frozenset[TaskId] = frozenset()

    def covers(self, task_id: TaskId) -> bool:
        """Whether the absence of this task means that it is open no more."""
        return self.whole or task_id in self.asked


@dataclass
class _Walk:
    """Through all pages of one status, over as many passes as it takes."""

    status: TaskStatus
    page: int = 0
    spent_s: float = 0.0  # in this walk
    met: int = 0
    rest_until: float = float("-inf")
    size: int | None = None  # of the last whole walk

    @property
    def under_way(self) -> bool:
        return self.page > 0

    def end(self, now: float) -> None:
        self.size = self.met
        self.rest_until = now + min(LONGEST_REST_S, REST_TIMES * self.spent_s)
        self.page, self.spent_s, self.met = 0, 0.0, 0


def look_once(server: TaskServer, queues: Sequence[QueueName]) -> Portion:
    """All tasks in progress, and the queued ones unless they are many. Raises ``TaskServerError``."""
    page = server.open_tasks_page(queues, (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS), 0)
    if page.last:
        return Portion(page.tasks, whole=True)
    tasks: list[ServerTask] = []
    all_queued = False
    # In this order: a task that an agent starts in between is met in one of the two.
    for status, most in ((TaskStatus.QUEUED, QUEUED_PAGES), (TaskStatus.IN_PROGRESS, None)):
        for number in itertools.count() if most is None else range(most):
            page = server.open_tasks_page(queues, (status,), number)
            tasks += page.tasks
            if page.last:
                all_queued = all_queued or status is TaskStatus.QUEUED
                break
    return Portion(tuple(tasks), whole=all_queued)


class OpenTasks:
    def __init__(self, server: TaskServer, clock: Clock, clearml: GuardedService) -> None:
        self._server = server
        self._clock = clock
        self._clearml = clearml
        self._many = False
        self._in_progress = _Walk(TaskStatus.IN_PROGRESS)
        self._queued = _Walk(TaskStatus.QUEUED)

    @property
    def all_met(self) -> bool:
        """Whether every open task has been met at least once."""
        return not self._many or (self._in_progress.size is not None and self._queued.size is not None)

    @property
    def under_way(self) -> bool:
        """Whether a listing goes on in the next pass."""
        return self._many and (self._in_progress.under_way or self._queued.under_way)

    def sweep(self, queues: Sequence[QueueName], suspects: Sequence[TaskId]) -> Portion | None:
        """Read all, or the suspects and a portion of the others; ``None`` when the server can't be used."""
        if not self._many:
            page = self._clearml.ask(
                lambda: self._server.open_tasks_page(queues, (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS), 0)
            )
            if page is None:
                return None
            if page.last:
                return Portion(page.tasks, whole=True)
            self._many = True
            self._in_progress, self._queued = _Walk(TaskStatus.IN_PROGRESS), _Walk(TaskStatus.QUEUED)
        asked = tuple(suspects[:MOST_SUSPECTS])
        seen = self._clearml.ask(lambda: self._server.still_open(queues, asked)) if asked else ()
        if seen is None:
            return None
        tasks = {task.task_id: task for task in (*seen, *self._walk(queues, begin=True))}
        return Portion(tuple(tasks.values()), whole=False, asked=frozenset(asked))

    def go_on(self, queues: Sequence[QueueName]) -> Portion:
        """The next portion of the listings under way, between two sweeps."""
        return Portion(self._walk(queues, begin=False), whole=False)

    def _walk(self, queues: Sequence[QueueName], begin: bool) -> tuple[ServerTask, ...]:
        began, pages = self._clock.monotonic(), 0
        tasks: dict[TaskId, ServerTask] = {}
        for walk in (self._in_progress, self._queued):
            if not walk.under_way and (not begin or began < walk.rest_until):
                continue
            while True:
                asked_at = self._clock.monotonic()
                page = self._clearml.ask(partial(self._server.open_tasks_page, queues, (walk.status,), walk.page))
                if page is None:
                    return tuple(tasks.values())
                now, pages = self._clock.monotonic(), pages + 1
                walk.spent_s += now - asked_at
                walk.page, walk.met = walk.page + 1, walk.met + len(page.tasks)
                tasks.update((task.task_id, task) for task in page.tasks)
                if page.last:
                    walk.end(now)
                    break
                if now - began >= PORTION_S or pages >= PORTION_PAGES:
                    break
        self._settle()
        return tuple(tasks.values())

    def _settle(self) -> None:
        """Back to one request once all would fit it."""
        sizes = (self._in_progress.size, self._queued.size)
        under_way = self._in_progress.under_way or self._queued.under_way
        if not under_way and all(size is not None for size in sizes) and sum(size or 0 for size in sizes) <= FEW:
            self._many = False
