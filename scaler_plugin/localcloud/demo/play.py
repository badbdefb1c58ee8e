"""The demo itself: a world, one standby sidecar, some tasks; then only watching, until everything has ended."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Protocol

from scaler_plugin.config.duration import Duration
from scaler_plugin.localcloud.default_config import CLUSTER, LEADER_TTL_S, DefaultTimes, default_config
from scaler_plugin.localcloud.demo.leader_kill import LeaderKill
from scaler_plugin.localcloud.demo.narration import narrate
from scaler_plugin.localcloud.demo.report import DemoReport
from scaler_plugin.localcloud.demo.scene import Scene
from scaler_plugin.localcloud.demo.tasks import DemoTasks
from scaler_plugin.localcloud.demo.watcher import Watcher
from scaler_plugin.localcloud.interruption import Interrupted, Interruption
from scaler_plugin.localcloud.world import World, WorldOptions, stop_standby

LOOK_INTERVAL_S = 0.25
EMBEDDED_EVERY_S = 0.5
#: Hosted plans meter ClearML's calls, and EC2 throttles.
REAL_EVERY_S = 3.0
#: When nothing has changed for so long (beyond what the options themselves make it wait), the demo gives up.
STALL_S = 240.0
#: A killed standby comes back after the leadership it held has run out and another node has been elected.
STANDBY_BACK_AFTER_S = LEADER_TTL_S + 4.0


@dataclass(frozen=True)
class DemoOptions:
    """The last three name real parts, as in ``WorldOptions``."""

    tasks: int = 3
    task_seconds: int = 5
    idle_timeout: Duration = field(default=Duration(10_000))
    boot_delay_s: float = 2.0
    kill_leader: bool = False
    keep: bool = False
    etcd: str | None = None
    clearml_host: str | None = None
    ec2_endpoint: str | None = None

    @property
    def shared(self) -> bool:
        """Whether a part is used that others may use too."""
        return bool(self.etcd or self.clearml_host or self.ec2_endpoint)


class Audience(Protocol):
    """Who is told how the demo goes on."""

    def news(self, at_s: float, sentence: str) -> None: ...

    def scene(self, scene: Scene) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """``interrupted`` is set when the demo was ended from outside; ``folder`` is what was kept."""

    report: DemoReport
    interrupted: Interrupted | None = None
    folder: str | None = None


def play(options: DemoOptions, interruption: Interruption, audience: Audience) -> Outcome:
    """Run the whole demo. Raises ``ScalerError`` when it can't begin, ``Interrupted`` when it was ended before anything was."""
    began = time.time()
    # In shared parts a name of its own keeps it apart from other clusters.
    cluster = f"{CLUSTER}-{secrets.token_hex(3)}" if options.shared else CLUSTER
    config = default_config(cluster, DefaultTimes(idle_timeout=str(options.idle_timeout)))
    world_options = WorldOptions(
        config=config,
        boot_delay_s=options.boot_delay_s,
        etcd=options.etcd,
        clearml_host=options.clearml_host,
        ec2_endpoint=options.ec2_endpoint,
        keep_folder=options.keep,
    )
    audience.news(0.0, f"starting {_embedded(options)} on this machine")
    with World(world_options, interruption) as world:
        outcome = _Play(options, world, interruption, audience, began).run()
        return replace(outcome, folder=str(world.folder) if options.keep else None)


def _embedded(options: DemoOptions) -> str:
    names = [("etcd", options.etcd), ("EC2", options.ec2_endpoint), ("ClearML", options.clearml_host)]
    embedded = [name for name, real in names if not real]
    return (
        ", ".join(embedded[:-1]) + " and " + embedded[-1] if len(embedded) > 1 else "".join(embedded) or "nothing else"
    )


class _Play:
    def __init__(
        self, options: DemoOptions, world: World, interruption: Interruption, audience: Audience, began: float
    ) -> None:
        self._options = options
        self._world = world
        self._interruption = interruption
        self._audience = audience
        self._began = began
        self._scene = Scene(0.0)

    def run(self) -> Outcome:
        options, world = self._options, self._world
        with ExitStack() as stack:
            store = world.open_store()
            stack.callback(store.close)
            self._tell("starting one standby sidecar, and nothing else")
            standby = world.start_standby(STANDBY_BACK_AFTER_S if options.kill_leader else None)
            tasks = DemoTasks(world.clearml_environment())
            stack.callback(tasks.close)
            queues = [queue for pool in world.config.pools for queue in pool.queues]
            if options.clearml_host:
                stack.callback(tasks.delete_queues, queues)
            tasks.enqueue(options.tasks, queues, options.task_seconds)
            every_s = REAL_EVERY_S if options.clearml_host else EMBEDDED_EVERY_S
            watcher = Watcher(store, world.keys, world.ec2_client(), tasks.look, self._began, every_s)
            interrupted, failure = None, ""
            try:
                failure = self._watch(watcher, LeaderKill(world, standby) if options.kill_leader else None)
                stop_standby(standby)
            except Interrupted as interruption:
                interrupted, failure = interruption, "It was interrupted."
            self._look(lambda: watcher.look(everything=True))
            return Outcome(DemoReport(self._scene, failure), interrupted)

    def _watch(self, watcher: Watcher, kill: LeaderKill | None) -> str:
        """Watch until everything has ended; the reason why it did not, or nothing."""
        patience_s = (
            STALL_S + self._options.task_seconds + self._options.idle_timeout.seconds + self._options.boot_delay_s
        )
        changed_at = time.monotonic()
        while True:
            if self._look(watcher.look):
                changed_at = time.monotonic()
            if kill is not None and (killed := kill.look(self._scene)):
                self._tell(f"SIGKILL for the leader's sidecar, {killed}")
            if self._scene.tasks and self._scene.over and not self._scene.away:
                return ""
            if time.monotonic() - changed_at > patience_s:
                return f"Nothing has changed for {patience_s:.0f} s; see the last lines above, or run it with --keep."
            self._interruption.sleep(LOOK_INTERVAL_S)

    def _look(self, look: Callable[[], Scene]) -> bool:
        """Take in the next scene; true if there is news in it."""
        before, self._scene = self._scene, look()
        sentences = narrate(before, self._scene)
        for sentence in sentences:
            self._tell(sentence)
        self._audience.scene(self._scene)
        return bool(sentences)

    def _tell(self, sentence: str) -> None:
        self._audience.news(time.time() - self._began, sentence)
