"""``--kill-leader``: SIGKILL for the leader's sidecar, half-way through the tasks.

It waits until somebody else could lead, and until half of the tasks have started. The killed process is started again, as its
service manager would do it; a standby's only once another node has had time to be elected.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from scaler_plugin.localcloud.demo.scene import Scene
from scaler_plugin.localcloud.machines.folder import SIDECAR
from scaler_plugin.localcloud.machines.process import MachineProcess
from scaler_plugin.localcloud.world import World


class LeaderKill:
    def __init__(self, world: World, standby: MachineProcess) -> None:
        self._world = world
        self._standby = standby
        self.killed: str | None = None

    def look(self, scene: Scene) -> str | None:
        """Kill if it is time to, once. Returns who was killed, at that moment only."""
        if self.killed is not None or not self._due(scene):
            return None
        leader = scene.leader
        pid = self._sidecar_of(leader.node) if leader else None
        if leader is None or pid is None:
            return None
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.killed = leader.node
        return self.killed

    @staticmethod
    def _due(scene: Scene) -> bool:
        started = sum(1 for task in scene.tasks if task.status not in ("queued", "created"))
        rivals = [node for node in scene.nodes if scene.leader and node.instance_id != scene.leader.node]
        return 2 * started >= len(scene.tasks) > 0 and bool(rivals)

    def _sidecar_of(self, node: str) -> int | None:
        machines = self._world.machines.reports() if self._world.machines else ()
        for machine in machines:
            if machine.name == node:
                return machine.units.get(SIDECAR)
        # What leads and is no instance of ours is the standby.
        return self._standby.report.units.get(SIDECAR) if not node.startswith("i-") else None
