"""The tags that make an instance the cluster's own.

They are set in the launch call itself, so no instance ever exists without them: an instance that nobody remembers can always
be found and ended.
"""

from __future__ import annotations

from scaler_plugin.core.model import LaunchRequest

CLUSTER = "scaler-sidecar:cluster"
POOL = "scaler-sidecar:pool"
LAUNCH = "scaler-sidecar:launch"
#: Set on instances that are no workers, to `probe`.
ROLE = "scaler-sidecar:role"


def tags_of(request: LaunchRequest) -> dict[str, str]:
    """The user's tags, and over them the cluster's own. ``Name`` is what the EC2 console shows unless the user set one."""
    return {
        "Name": f"{request.cluster}-{request.pool}",
        **dict(request.tags),
        CLUSTER: request.cluster,
        POOL: request.pool,
        LAUNCH: request.launch_id,
    }
