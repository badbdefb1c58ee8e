"""EC2 through boto3: the real adapter of :class:`~scaler_plugin.core.ports.Fleet`.

What it guarantees: every instance carries the cluster's tags from its first moment, ends when its system shuts down, and
answers metadata requests only with a token; a launch is one call, never repeated behind the caller's back.
What it does not: it waits for no state and remembers nothing between calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from scaler_plugin.cloud import tags
from scaler_plugin.cloud.ec2_errors import cloud_error
from scaler_plugin.core.model import (
    Instance,
    InstanceId,
    InstanceState,
    LaunchId,
    LaunchRequest,
    Market,
    NodeRole,
    PoolName,
    Volume,
)
from scaler_plugin.errors import CloudRefused, CloudUnavailable

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

log = structlog.get_logger(__name__)
T = TypeVar("T")

CONNECT_TIMEOUT_S = 3.0
#: RunInstances of a few hundred takes seconds; longer than this and the leader had better ask again by token.
READ_TIMEOUT_S = 15.0

#: boto3 takes InsufficientInstanceCapacity (HTTP 500) for a hiccup and would try thrice; our leader has its own back-off.
LAUNCH_ATTEMPTS = 1
#: A read may be repeated once, for a connection that had died in the pool.
READ_ATTEMPTS = 2

#: EC2's code for an instance with termination protection.
PROTECTED = "OperationNotPermitted"

#: Most that one TerminateInstances or DescribeInstances page may hold.
PAGE = 1000

#: What code that reads an answer raises when the answer is another one.
ODD = (KeyError, IndexError, TypeError, ValueError, AttributeError)

_INSTANCE_ID = re.compile(r"\bi-[0-9a-f]+\b")


class Ec2Fleet:
    """``session`` is a :class:`boto3.Session`; without one boto3's usual chain of credentials and regions applies."""

    def __init__(
        self,
        cluster: str,
        region: str | None = None,
        endpoint_url: str | None = None,
        session: boto3.Session | None = None,
    ) -> None:
        self._cluster = cluster
        self._region = region
        self._endpoint_url = endpoint_url
        self._session = session
        self._clients: dict[int, EC2Client] = {}

    def run_instances(self, request: LaunchRequest, token: str) -> tuple[InstanceId, ...]:
        parameters = launch_parameters(request, token)
        about = f"pool {request.pool} ({request.count} of {request.instance_type}, {request.market.value})"

        def started() -> tuple[InstanceId, ...]:
            answer = self._client(LAUNCH_ATTEMPTS).run_instances(**parameters)
            return tuple(InstanceId(instance["InstanceId"]) for instance in answer["Instances"])

        return self._call("RunInstances", about, started)

    def instances(self) -> tuple[Instance, ...]:
        return self._described({})

    def instances_of(self, launch_id: LaunchId) -> tuple[Instance, ...]:
        return self._described({tags.LAUNCH: launch_id})

    def terminate(self, instance_ids: Sequence[InstanceId]) -> None:
        refusal: CloudRefused | None = None
        for start in range(0, len(instance_ids), PAGE):
            refusal = self._terminate(list(instance_ids[start : start + PAGE])) or refusal
        if refusal is not None:
            raise refusal

    def console_output(self, instance_id: InstanceId) -> str:
        for latest in (True, False):
            try:
                return self._console_output(instance_id, latest)
            except CloudRefused as refused:
                if refused.code.startswith("InvalidInstanceID"):
                    return ""
                # Only instances on Nitro hand out their latest output; the others what EC2 last kept.
                if not (latest and refused.code.startswith("Unsupported")):
                    raise
        return ""

    def _terminate(self, instance_ids: list[InstanceId]) -> CloudRefused | None:
        """Terminate one batch, without those that EC2 does not know, for which it refuses the whole call.

        Which others it would refuse is not searched for: that may take as many calls as there are instances, and only the caller
        knows what time there is.
        """
        about = f"{len(instance_ids)} instances ({', '.join(instance_ids[:3])}{', …' if len(instance_ids) > 3 else ''})"
        try:
            self._call(
                "TerminateInstances",
                about,
                lambda: self._client(READ_ATTEMPTS).terminate_instances(InstanceIds=list(instance_ids)),
            )
        except CloudRefused as refused:
            gone = refused.code.startswith("InvalidInstanceID")
            if len(instance_ids) == 1:
                return None if gone else refused
            if not gone:
                return refused
            named = set(_INSTANCE_ID.findall(str(refused.__cause__))) & set(instance_ids)
            if named:
                return (
                    self._terminate([i for i in instance_ids if i not in named]) if named < set(instance_ids) else None
                )
            middle = len(instance_ids) // 2
            halves = [self._terminate(half) for half in (instance_ids[:middle], instance_ids[middle:])]
            return halves[0] or halves[1]
        return None

    def _console_output(self, instance_id: InstanceId, latest: bool) -> str:
        client = self._client(READ_ATTEMPTS)
        answer = self._call(
            "GetConsoleOutput",
            f"instance {instance_id}",
            lambda: client.get_console_output(InstanceId=instance_id, **({"Latest": True} if latest else {})),
        )
        # botocore decodes the base64 by itself.
        return answer.get("Output", "")

    def _described(self, also: dict[str, str]) -> tuple[Instance, ...]:
        wanted = {tags.CLUSTER: self._cluster, **also}
        filters: Any = [{"Name": f"tag:{name}", "Values": [value]} for name, value in wanted.items()]

        def pages() -> tuple[Instance, ...]:
            paginator = self._client(READ_ATTEMPTS).get_paginator("describe_instances")
            listed = paginator.paginate(Filters=filters, PaginationConfig={"PageSize": PAGE})
            return tuple(
                _instance(i) for page in listed for r in page["Reservations"] for i in r["Instances"] if _named(i)
            )

        return self._call("DescribeInstances", f"cluster {self._cluster}", pages)

    def _client(self, attempts: int) -> EC2Client:
        if attempts not in self._clients:
            session = self._session = self._session or boto3.Session()
            config = Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                retries={"total_max_attempts": attempts, "mode": "standard"},
                user_agent_extra="scaler-sidecar",
            )
            self._clients[attempts] = session.client(
                "ec2", region_name=self._region, endpoint_url=self._endpoint_url, config=config
            )
        return self._clients[attempts]

    @staticmethod
    def _call(action: str, about: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except (BotoCoreError, ClientError, ResponseParserError) as error:
            raise cloud_error(error, action, about) from error
        except ODD as error:
            raise CloudUnavailable(
                f"EC2's answer to {action} for {about} is not understood ({type(error).__name__}). It is asked again; if it "
                "goes on, look for a proxy in between, or at aws.endpoint_url."
            ) from error


def launch_parameters(request: LaunchRequest, token: str) -> Any:
    """RunInstances' parameters. Every one follows from the arguments, so that a repeated call is the same call."""
    resource_tags = [{"Key": key, "Value": value} for key, value in sorted(tags.tags_of(request).items())]
    parameters: dict[str, Any] = {
        "ImageId": request.image_id,
        "InstanceType": request.instance_type,
        "MinCount": 1,
        "MaxCount": request.count,
        "ClientToken": token,
        "InstanceInitiatedShutdownBehavior": "terminate",
        # One hop: containers on the instance do not reach the credentials of its role.
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
        "TagSpecifications": [{"ResourceType": kind, "Tags": resource_tags} for kind in ("instance", "volume")],
    }
    if request.launch_template:
        # Its default version would stay the first one: CloudFormation adds versions and leaves the default alone.
        parameters["LaunchTemplate"] = {"LaunchTemplateName": request.launch_template, "Version": "$Latest"}
    if request.user_data:
        parameters["UserData"] = request.user_data  # botocore encodes it in base64
    if request.market is Market.SPOT:
        spot = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        parameters["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot}
    if request.subnet_id:
        parameters["SubnetId"] = request.subnet_id
    elif request.zone:
        parameters["Placement"] = {"AvailabilityZone": request.zone}
    if request.security_group_ids:
        parameters["SecurityGroupIds"] = list(request.security_group_ids)
    if request.key_name:
        parameters["KeyName"] = request.key_name
    if request.instance_profile:
        kind = "Arn" if request.instance_profile.startswith("arn:") else "Name"
        parameters["IamInstanceProfile"] = {kind: request.instance_profile}
    if request.volume:
        parameters["BlockDeviceMappings"] = [_block_device(request.volume)]
    return parameters


def _block_device(volume: Volume) -> dict[str, Any]:
    ebs: dict[str, Any] = {
        "VolumeSize": volume.size_gb,
        "VolumeType": volume.volume_type,
        "Encrypted": volume.encrypted,
        "DeleteOnTermination": True,
    }
    if volume.iops is not None:
        ebs["Iops"] = volume.iops
    if volume.throughput is not None:
        ebs["Throughput"] = volume.throughput
    return {"DeviceName": volume.device_name, "Ebs": ebs}


def _instance(described: InstanceTypeDef) -> Instance:
    tagged = _tags(described.get("Tags", ()))
    pool, launch = tagged.get(tags.POOL), tagged.get(tags.LAUNCH)
    return Instance(
        instance_id=InstanceId(described["InstanceId"]),
        state=_state(described),
        launched_at=described["LaunchTime"].timestamp(),
        pool=PoolName(pool) if pool else None,
        launch_id=LaunchId(launch) if launch else None,
        instance_type=described.get("InstanceType", ""),
        market=Market.SPOT if described.get("InstanceLifecycle") == "spot" else Market.ON_DEMAND,
        zone=described.get("Placement", {}).get("AvailabilityZone", ""),
        role=NodeRole.PROBE if tagged.get(tags.ROLE) == NodeRole.PROBE.value else NodeRole.WORKER,
    )


def _named(described: InstanceTypeDef) -> bool:
    """Whether it has an id: without one nobody can do anything with it."""
    if described.get("InstanceId"):
        return True
    _tell_once("EC2 lists an instance without an id; it is passed over")
    return False


def _state(described: InstanceTypeDef) -> InstanceState:
    name = described.get("State", {}).get("Name", "")
    try:
        return InstanceState(name)
    except ValueError:
        # It counts as alive: it may work, and it may cost money.
        _tell_once(
            f"EC2 says of {described['InstanceId']} that it is {name!r}, which is no state; it is taken for running"
        )
        return InstanceState.RUNNING


@lru_cache(maxsize=1000)
def _tell_once(sentence: str) -> None:
    """Log it, and not again with every listing."""
    log.warning("odd_answer", error=sentence)


def _tags(listed: Iterable[Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in listed}
