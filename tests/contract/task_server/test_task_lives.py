"""The same lives of tasks in memory and on the stand-in: what can be seen is compared after every step."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from scaler_plugin.core.model import QueueName, ServerTask, TaskId, WorkerId
from scaler_plugin.errors import TaskServerRefused

from .worlds import LiveWorld, MemoryWorld, World

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own, of pyparsing

A, B = QueueName("alpha"), QueueName("beta-queue")
Step = Callable[[World, TaskId], object]
WORKER = WorkerId("demo:cpu:t3.micro:i-1")


def seen(world: World, task: TaskId, queues: Sequence[QueueName] = (A, B)) -> ServerTask | None:
    return next((found for found in world.leader.open_tasks(queues) if found.task_id == task), None)


def rescue(world: World, task: TaskId) -> object:
    found = seen(world, task)
    return found and found.queue and (found.requeues, world.leader.requeue(found, found.queue, "It was stranded."))


def give_up(world: World, task: TaskId) -> object:
    found = seen(world, task)
    return found and (found.requeues, world.leader.fail_task(found, "It was stranded too often."))


LIVES: dict[str, list[Step]] = {
    "pulled, started, completed": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.started(t, force=True),
        lambda w, t: w.status_report(WORKER, t),
        lambda w, t: w.completed(t),
        lambda w, t: w.enqueue(t, A),
    ],
    "limbo, and out of it by enqueueing again": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.get_next_task(A) is None,
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.enqueue(t, B),
    ],
    "limbo, dequeued": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.dequeue(t),
        lambda w, t: w.dequeue(t),
    ],
    "limbo, stopped, enqueued, stopped in the queue": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.stop(t),
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.stop(t),
    ],
    "enqueued twice, then moved": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.enqueue(t, B),
        lambda w, t: w.dequeue(t),
        lambda w, t: w.dequeue(t),
    ],
    "stopped by its agent while an entry waits, pulled again": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.stopped(t),
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.started(t),
    ],
    "started without a pull leaves the entry": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.started(t),
        lambda w, t: w.completed(t),
        lambda w, t: w.get_next_task(A) == t,
    ],
    "aborted while a worker runs it": [
        lambda w, t: w.started(t),
        lambda w, t: w.status_report(WORKER, t),
        lambda w, t: w.stop(t),
        lambda w, t: w.stopped(t),
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.dequeue(t),
    ],
    "failed, enqueued again, reset": [
        lambda w, t: w.started(t),
        lambda w, t: w.failed(t),
        lambda w, t: w.started(t),
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.reset(t),
    ],
    "running, forced back into a queue": [
        lambda w, t: w.started(t),
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.enqueue(t, A, force=True),
        lambda w, t: w.dequeue(t),
    ],
    "rescued out of limbo, twice, then given up": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.get_next_task(A) == t,
        rescue,
        lambda w, t: w.get_next_task(A) == t,
        rescue,
        lambda w, t: w.get_next_task(A) == t,
        give_up,
        rescue,
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.get_next_task(A) == t,
        rescue,
    ],
    "rescued from a worker that is gone": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.started(t, force=True),
        lambda w, t: w.status_report(WORKER, t),
        rescue,
        rescue,
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.started(t, force=True),
        rescue,
        lambda w, t: w.stop(t),
        lambda w, t: w.enqueue(t, B),
    ],
    "rescued, then dequeued by a person": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.started(t, force=True),
        rescue,
        lambda w, t: w.dequeue(t),
    ],
    "rescued while an entry waits": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.started(t),
        rescue,
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.get_next_task(A) is None,
    ],
    "given up while it runs": [
        lambda w, t: w.enqueue(t, A),
        lambda w, t: w.get_next_task(A) == t,
        lambda w, t: w.started(t, force=True),
        give_up,
        give_up,
    ],
    "nothing to finish": [
        lambda w, t: w.stop(t),
        lambda w, t: w.stopped(t),
        lambda w, t: w.failed(t),
        lambda w, t: w.completed(t),
    ],
}


def outcome(world: World, step: Step, task: TaskId) -> object:
    """What a step brought: its result or the sub-code of its refusal, and how the task looks then."""
    try:
        result = step(world, task)
    except TaskServerRefused as error:
        result = f"refused: {error.subcode}"
    return result, world.snapshot(task)


@pytest.mark.real
@pytest.mark.parametrize("life", LIVES)
def test_a_task_lives_alike_in_memory_and_on_the_stand_in(live: LiveWorld, life: str) -> None:
    memory = MemoryWorld()
    tasks = (memory.create_task(), live.create_task())
    for world in (memory, live):
        for queue in (A, B):
            world.leader.create_queue(queue)
            while world.get_next_task(queue) is not None:
                pass
    for number, step in enumerate(LIVES[life]):
        memory.let_time_pass()
        outcomes = [outcome(world, step, task) for world, task in zip((memory, live), tasks, strict=True)]
        assert outcomes[0] == outcomes[1], f"step {number}"


@pytest.mark.real
@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_calls_has_the_same_effect_in_memory_and_on_the_stand_in(live: LiveWorld, seed: int) -> None:
    rng = random.Random(seed)
    queues = [QueueName(f"random {seed} {name}") for name in "ab"]
    memory = MemoryWorld()
    for world in (memory, live):
        for queue in queues:
            world.leader.create_queue(queue)
    pairs = [(memory.create_task(), live.create_task()) for _ in range(4)]
    number_of = {task: number for number, pair in enumerate(pairs) for task in pair}

    def pull(queue: QueueName) -> Step:
        return lambda world, _: number_of.get(world.get_next_task(queue) or TaskId(""))

    def into(queue: QueueName, force: bool) -> Step:
        return lambda world, task: world.enqueue(task, queue, force=force)

    last_seen: dict[TaskId, ServerTask] = {}

    def look(world: World, task: TaskId) -> object:
        found = seen(world, task, queues)
        if found is not None:
            last_seen[task] = found
        return found and (found.status, found.queue, found.worker_id, found.tags, found.requeues)

    def rescue_as_last_seen(queue: QueueName) -> Step:
        return lambda world, task: task in last_seen and world.leader.requeue(last_seen[task], queue, "Stranded.")

    def look_and_rescue(queue: QueueName) -> Step:
        return lambda world, task: (look(world, task), rescue_as_last_seen(queue)(world, task))

    for number in range(200):
        memory.let_time_pass()
        steps: dict[str, Step] = {
            "enqueue": into(rng.choice(queues), rng.random() < 0.2),
            "enqueue again": into(rng.choice(queues), False),
            "pull": pull(rng.choice(queues)),
            "dequeue": lambda w, t: w.dequeue(t),
            "stop": lambda w, t: w.stop(t),
            "started": lambda w, t: w.started(t),
            "completed": lambda w, t: w.completed(t),
            "failed": lambda w, t: w.failed(t),
            "stopped": lambda w, t: w.stopped(t),
            "report": lambda w, t: w.status_report(WORKER, t),
            "reset": lambda w, t: w.reset(t),
            "look": look,
            "look and rescue": look_and_rescue(rng.choice(queues)),
            "rescue as last seen": rescue_as_last_seen(rng.choice(queues)),
            "give up as last seen": lambda w, t: t in last_seen and w.leader.fail_task(last_seen[t], "Too often."),
        }
        name, pair = rng.choice(list(steps)), rng.choice(pairs)
        outcomes = [outcome(world, steps[name], task) for world, task in zip((memory, live), pair, strict=True)]
        assert outcomes[0] == outcomes[1], f"call {number}: {name}"
    waiting = [
        {
            queue: [number_of[task] for task in backlog.task_ids]
            for queue, backlog in world.leader.backlogs(queues).items()
        }
        for world in (memory, live)
    ]
    assert waiting[0] == waiting[1]
