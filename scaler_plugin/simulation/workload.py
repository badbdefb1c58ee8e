"""What arrives and how long it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from scaler_plugin.core.model import QueueName, TaskId

DAY_S = 86_400.0


class Durations:
    """How long each task runs once it is started."""

    def __init__(self) -> None:
        self._durations: dict[TaskId, float] = {}

    def set(self, task_id: TaskId, duration_s: float) -> None:
        self._durations[task_id] = duration_s

    def duration_s(self, task_id: TaskId) -> float:
        return self._durations[task_id]


@dataclass(frozen=True)
class Arrival:
    at_s: float
    queue: QueueName
    duration_s: float


def bursts(
    rng: Random, queues: tuple[QueueName, ...], length_s: float, per_hour: float, mean_duration_s: float
) -> Iterator[Arrival]:
    """Arrivals as ML teams make them: bursts of a few to dozens, more by day than by night, durations with a long tail.

    Bursts come as a Poisson process whose rate follows a sine over the day; a burst's size is geometric; durations are
    log-normal (sigma 1), the shape found in the Philly and Helios cluster traces.
    """
    at = 0.0
    mean_burst = 5.0
    while True:
        daytime = 1.0 + 0.8 * math.sin(2 * math.pi * at / DAY_S)
        at += rng.expovariate(per_hour / mean_burst * daytime / 3600.0)
        if at >= length_s:
            return
        queue = rng.choice(queues)
        size = 1 + int(rng.expovariate(1.0 / (mean_burst - 1)))
        for number in range(size):
            duration = rng.lognormvariate(math.log(mean_duration_s) - 0.5, 1.0)
            yield Arrival(at + number * 0.1, queue, duration)
