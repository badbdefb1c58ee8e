"""A simulated cluster with the intervals of production, which lives until something holds."""

from __future__ import annotations

from collections.abc import Callable

from scaler_plugin.config.load import parse_yaml
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.core.model import TaskId, TaskStatus
from scaler_plugin.simulation.world import World


class LiveScene:
    def __init__(self, config: str, seed: int = 1) -> None:
        self.world = World(parse_yaml(config, "test"), seed, boot_s=30.0, step_s=1.0, node_ttl_s=30, agent_poll_s=5.0)
        self.store = self.world.store.client("test")

    @property
    def now(self) -> float:
        return self.world.clock.monotonic()

    def until(self, holds: Callable[[], bool], within_s: float) -> float:
        """Let the world live until it holds, and say how long that took."""
        began = self.now
        while not holds():
            assert self.now - began < within_s, "\n".join(self.world.notes[-40:])
            self.world.run_until(self.now + 0.25)
        return self.now - began

    def status(self, task: TaskId) -> TaskStatus:
        return self.world.server.task(task).status

    def kinds(self) -> list[str]:
        """Of the cluster's events, oldest first."""
        return [event.kind for event in read_events(self.store, self.world.keys)]
