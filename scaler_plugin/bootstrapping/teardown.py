"""The end of a cluster's stack.

Guarantees: it refuses while an instance of the cluster runs, unless told to end them. A leader or the schedule may launch while
instances end: it looks again until nothing is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from scaler_plugin.bootstrapping.deployment import Deployment, Progress
from scaler_plugin.bootstrapping.instances import end_all, running
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.errors import CloudRefused

#: A stack whose security group is in use by an instance that was launched meanwhile fails to delete; then once more.
ROUNDS = 3


def tear_down(
    config: ScalerConfig,
    deployment: Deployment,
    progress: Progress,
    *,
    terminate: bool,
    wait: Callable[[float], None] = time.sleep,
) -> bool:
    """Delete the stack; false if there was none. Raises ``CloudRefused`` while instances run."""
    alive = running(config)
    if alive and not terminate:
        listed = ", ".join(instance.instance_id for instance in alive[:5]) + (" …" if len(alive) > 5 else "")
        raise CloudRefused(
            f"Nothing was deleted: {len(alive)} instances of cluster {config.cluster} run ({listed}), perhaps with tasks on them. "
            "Wait until they have retired, or give --terminate."
        )
    if not terminate:
        return deployment.delete()
    for round_ in range(ROUNDS):
        end_all(config, progress, wait)
        try:
            deleted = deployment.delete()
        except CloudRefused:
            if round_ == ROUNDS - 1 or not running(config):
                raise
            progress("An instance was launched meanwhile; once more.")
        else:
            # The last that a leader or the schedule launched: without templates there can be no other.
            end_all(config, progress, wait)
            return deleted
    return False
