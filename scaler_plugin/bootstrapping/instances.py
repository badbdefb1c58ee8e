"""The cluster's instances from outside: the first one, a probe out of turn, those that still run, and their end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.bootstrapping.deployment import Deployment, Progress
from scaler_plugin.bootstrapping.ground import Ground
from scaler_plugin.bootstrapping.template import probe_parameters, stack_name
from scaler_plugin.cloud import tags
from scaler_plugin.cloud.ec2 import PROTECTED, Ec2Fleet
from scaler_plugin.config.launches import launch_candidates
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.model import Instance, InstanceId, LaunchId, PoolName
from scaler_plugin.core.policy import ZeroMode
from scaler_plugin.core.ports import Fleet
from scaler_plugin.errors import CloudRefused, CloudUnavailable, ConfigError

#: An instance ends within a minute or two.
END_PATIENCE_S = 600.0
LOOK_S = 3.0

#: Refusals after which another type or zone may work.
_ELSEWHERE = ("Insufficient", "Unsupported", "SpotMaxPriceTooLow", "VcpuLimitExceeded", "MaxSpotInstanceCountExceeded")


def new_launch_id(config: ScalerConfig) -> LaunchId:
    """A launch of a person's: no leader has a record of it, and a registered node needs none."""
    return LaunchId(f"{config.cluster[:20]}-first-{secrets.token_hex(6)}")


def launch_first(
    config: ScalerConfig, pool: PoolName, user_data: Callable[[LaunchId], str], progress: Progress
) -> InstanceId:
    """Launch one worker of the pool, by the first of its types and places that has room. Raises ``CloudError``."""
    launch_id = new_launch_id(config)
    fleet = cluster_fleet(config)
    refusal: CloudRefused | None = None
    for number, request in enumerate(launch_candidates(config, pool, launch_id, 1, user_data(launch_id))):
        where = request.subnet_id or request.zone or "the default subnet"
        progress(f"Asking EC2 for one {request.instance_type} ({request.market.value}) in {where}.")
        try:
            return fleet.run_instances(request, f"{launch_id}-{number}")[0]
        except CloudRefused as error:
            if not error.code.startswith(_ELSEWHERE):
                raise
            progress(f"  {error}")
            refusal = error
    assert refusal is not None  # noqa: S101 - a pool has at least one type
    raise refusal


def probe_template(config: ScalerConfig, deployment: Deployment) -> str:
    """The id of the probe's launch template. Raises ``ConfigError`` for a cluster without a probe, ``CloudError`` for AWS."""
    if config.zero_mode is not ZeroMode.PROBE:
        raise ConfigError(
            f"Cluster {config.cluster} has zero.mode {config.zero_mode.value}, so it has no probe. Something that leads is up "
            "already, or should be: see `scaler-sidecar status`."
        )
    template = deployment.resource_id("ProbeTemplate")
    if template is None:
        raise CloudRefused(
            f"The stack {stack_name(config)} has no probe yet; call `scaler-sidecar bootstrap apply` first."
        )
    return template


def launch_probe(config: ScalerConfig, ground: Ground, template: str, account: Account) -> InstanceId:
    """Launch the probe now, as the schedule would. Raises ``CloudError``."""
    parameters = probe_parameters(config, ground, template, f"{config.cluster[:20]}-wake-{secrets.token_hex(6)}")
    answer = account.call("ec2", "run_instances", f"the probe of cluster {config.cluster}", **parameters)
    return InstanceId(answer["Instances"][0]["InstanceId"])


def alive_of(fleet: Fleet) -> tuple[Instance, ...]:
    """The cluster's instances that have not ended. Raises ``CloudError``."""
    return tuple(instance for instance in fleet.instances() if not instance.state.ending)


def end_all(fleet: Fleet, cluster: str, progress: Progress, wait: Callable[[float], None] = time.sleep) -> None:
    """Terminate whatever carries the cluster's tag, until EC2 lists nothing of it. Raises ``CloudError``."""
    deadline = time.monotonic() + END_PATIENCE_S
    while left := [i for i in fleet.instances() if i.state.value != "terminated"]:
        if time.monotonic() > deadline:
            raise CloudUnavailable(f"{len(left)} instances of cluster {cluster} do not end; call this again.")
        alive = [instance.instance_id for instance in left if not instance.state.ending]
        if alive:
            progress(f"Terminating {', '.join(alive)}.")
            terminate_each(fleet, alive)
        wait(LOOK_S)


def terminate_each(fleet: Fleet, instance_ids: Sequence[InstanceId]) -> None:
    """Terminate the instances; one that is protected keeps no other alive. Raises ``CloudError``, its refusal at the end."""
    try:
        fleet.terminate(instance_ids)
    except CloudRefused as refused:
        if refused.code != PROTECTED or len(instance_ids) == 1:
            raise
    else:
        return
    refusal: CloudRefused | None = None
    for instance_id in instance_ids:
        try:
            fleet.terminate([instance_id])
        except CloudRefused as refused:
            refusal = refused
    if refusal is not None:
        raise refusal


def cluster_tags(config: ScalerConfig) -> dict[str, str]:
    return {tags.CLUSTER: config.cluster}


def cluster_fleet(config: ScalerConfig) -> Ec2Fleet:
    return Ec2Fleet(config.cluster, region=config.aws.region, endpoint_url=config.aws.endpoint_url)
