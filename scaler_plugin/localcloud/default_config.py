"""The configurations of a local cloud: the small default one, and a user's own made fit for it."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from scaler_plugin.config.pool_schema import is_image_id
from scaler_plugin.config.schema import AwsConfig, ClearmlConfig, EtcdConfig, ScalerConfig
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID

CLUSTER = "demo"
REGION = "us-east-1"
#: Short enough to be seen in a demo, long enough for a host with two busy cores to renew in time.
LEADER_TTL_S = 5
MAX_INSTANCES_PER_POOL = 4


@dataclass(frozen=True)
class DefaultTimes:
    """``startup_timeout`` counts from the launch: machines boot slowly on a host where everything else runs too."""

    poll_interval: str = "1s"
    idle_timeout: str = "60s"
    startup_timeout: str = "180s"


def default_config(cluster: str = CLUSTER, times: DefaultTimes = DefaultTimes()) -> ScalerConfig:
    """Two pools with a queue each: ``<cluster>-cpu``, and ``<cluster>-gpu`` whose instances only pretend to have a GPU."""
    shared = {
        "ami": DEMO_IMAGE_ID,
        "max_instances": MAX_INSTANCES_PER_POOL,
        "idle_timeout": times.idle_timeout,
        "startup_timeout": times.startup_timeout,
        "cpu_only": True,
    }
    return ScalerConfig.model_validate(
        {
            "cluster": cluster,
            "poll_interval": times.poll_interval,
            "leader_ttl": f"{LEADER_TTL_S}s",
            "aws": {"region": REGION},
            "pools": [
                {"name": "cpu", "queues": [f"{cluster}-cpu"], "instance_types": ["c5.large"], **shared},
                {"name": "gpu", "queues": [f"{cluster}-gpu"], "instance_types": ["g4dn.xlarge"], **shared},
            ],
        }
    )


def localised(config: ScalerConfig) -> ScalerConfig:
    """A user's configuration without its addresses and secrets: etcd, ClearML and EC2 are the local ones.

    Images are the user's own; the EC2 double is told to have them, and one without an id gets one. The machines are processes of
    this host and have no GPU of their own, whatever their type says.
    """
    pools = tuple(pool.model_copy(update={"cpu_only": True, "ami": _image_id(pool.ami)}) for pool in config.pools)
    aws = AwsConfig(region=config.aws.region) if config.aws.region else AwsConfig()
    return config.model_copy(update={"etcd": EtcdConfig(), "clearml": ClearmlConfig(), "aws": aws, "pools": pools})


def _image_id(ami: str) -> str:
    return ami if is_image_id(ami) else f"ami-{sha256(ami.encode()).hexdigest()[:17]}"
