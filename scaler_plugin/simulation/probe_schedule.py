"""The schedule that launches probes, as EventBridge Scheduler does it: by EC2 alone, whatever else lives."""

from __future__ import annotations

from scaler_plugin.cloud.memory_fleet import MemoryFleet
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.model import InstanceId, LaunchId, LaunchRequest, PoolName
from scaler_plugin.errors import CloudError
from scaler_plugin.simulation.scheduler import Scheduler


class ProbeSchedule:
    """``launched`` are all probes so far. A probe is an instance without a pool."""

    def __init__(self, fleet: MemoryFleet, scheduler: Scheduler, config: ScalerConfig) -> None:
        self._fleet = fleet
        self._scheduler = scheduler
        self._config = config
        self.launched: list[InstanceId] = []
        self._executions = 0

    def run(self, every_s: float) -> None:
        """The schedule's life; it never retries, as the next execution is the retry."""
        while True:
            self._scheduler.sleep(every_s)
            self.launch()

    def launch(self) -> None:
        """One execution."""
        self._executions += 1
        request = LaunchRequest(
            cluster=self._config.cluster,
            pool=PoolName(""),
            launch_id=LaunchId(f"execution-{self._executions}"),
            count=1,
            instance_type=self._config.zero.probe_instance_type,
            image_id=self._config.pools[0].ami,
        )
        try:
            self.launched += self._fleet.run_instances(request, f"execution-{self._executions}")
        except CloudError:
            return
