"""The two functions of the stock agent, wrapped: a pull needs the gate, and the end of a task is written down.

A pull that the gate refuses is answered with ``{}``: that is what the server itself sends for an empty queue
(``queues.get_next_task``), and what the daemon's loop takes for "no task" in every version.

A pull is also the moment between two tasks at which an agent that should serve other queues by now can be ended: the gate is held,
so nothing of a task lives on the slot.

The agent asks its queues one after the other, the first again only after all were empty. If the gate is closed for the first and
open again for the second, a task of lower priority would overtake; so once refused, the rest of that round is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from scaler_plugin.agent.pool_queues import QueuesChanged
from scaler_plugin.agent.stock_agent import StockAgent
from scaler_plugin.core.model import QueueName, TaskId

log = structlog.get_logger(__name__)


class PullingSlot(Protocol):
    """The agent's side of a slot (``AgentSlot``)."""

    def try_enter_pull(self) -> bool: ...

    def finish_pull(self, task_id: TaskId | None, queue: QueueName | None = None) -> None: ...

    def task_ended(self, *, returned: bool) -> None: ...


class _Round:
    """Where the agent is in going through its queues; their order is learnt from the first time each is asked."""

    def __init__(self) -> None:
        self._order: list[str] = []
        self._refused_at: int | None = None

    def refuses(self, queue: str) -> bool:
        """Whether an earlier queue of the same round was refused."""
        if queue not in self._order:
            self._order.append(queue)
        place = self._order.index(queue)
        if self._refused_at is not None and place > self._refused_at:
            self._refused_at = place
            return True
        self._refused_at = None
        return False

    def refused(self, queue: str) -> None:
        self._refused_at = self._order.index(queue)


def wrap(agent: StockAgent, slot: PullingSlot, queues_changed: Callable[[], bool]) -> None:
    """Put the gate around the agent's pulls and the end of its tasks, in this process, for good.

    When ``queues_changed`` says so, the next pull ends the agent by ``QueuesChanged`` instead.
    """
    agent.module.__dict__["get_next_task"] = _gated(agent.module.__dict__["get_next_task"], slot, queues_changed)
    agent.worker.run_one_task = _watched(agent.worker.run_one_task, slot)


def _gated(
    get_next_task: Callable[..., Any], slot: PullingSlot, queues_changed: Callable[[], bool]
) -> Callable[..., Any]:
    names: dict[str, QueueName] = {}
    current_round = _Round()

    @functools.wraps(get_next_task)
    def gated(session: Any, queue: str, *args: Any, **kwargs: Any) -> Any:
        if current_round.refuses(queue):
            return {}
        if queue not in names and (name := _queue_name(session, queue)):
            names[queue] = name  # asked before the pull, so that nothing stands between the answer and the disk
        if not slot.try_enter_pull():
            current_round.refused(queue)
            return {}
        if queues_changed():
            slot.finish_pull(None)
            raise QueuesChanged
        task_id: TaskId | None = None
        try:
            response = get_next_task(session, queue, *args, **kwargs)
            task_id = _task_in(response)
            return response
        finally:
            slot.finish_pull(task_id, names.get(queue, QueueName(queue)))

    return gated


def _watched(run_one_task: Callable[..., Any], slot: PullingSlot) -> Callable[..., Any]:
    @functools.wraps(run_one_task)
    def watched(*args: Any, **kwargs: Any) -> Any:
        returned = False
        try:
            status = run_one_task(*args, **kwargs)
            returned = True
            return status
        finally:
            slot.task_ended(returned=returned)

    return watched


def _task_in(response: Any) -> TaskId | None:
    """The pulled task's id, read as the daemon's loop reads it."""
    try:
        return TaskId(response["entry"]["task"])
    except (KeyError, TypeError, AttributeError):
        return None


def _queue_name(session: Any, queue: str) -> QueueName | None:
    """The queue's name; the loop only knows its id. Only for people to read, so any failure just leaves the id."""
    try:
        answer = session.send_request(
            service="queues", action="get_all", json={"id": [queue], "only_fields": ["name"]}, async_enable=False
        )
        return QueueName(answer.json()["data"]["queues"][0]["name"])
    except Exception as error:  # the session raises whatever its HTTP library does
        log.info("queue_name_unknown", queue=queue, error=str(error))
        return None
