"""The CloudFormation template of one cluster, from ``stack.yaml``, the policies, the configuration and what AWS says about it.

Pure: the same input gives the same template, so what would change is a comparison of two templates.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import yaml

from scaler_plugin.bootstrapping.filling import fill
from scaler_plugin.bootstrapping.ground import Ground
from scaler_plugin.cloud import tags
from scaler_plugin.config.pool_schema import PoolConfig, VolumeConfig, is_image_id
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.model import NodeRole
from scaler_plugin.core.policy import ZeroMode
from scaler_plugin.errors import ConfigError

#: The pattern of which the result has one per pool, and the parts that only a cluster with a probe has.
POOL_PATTERN = "PoolTemplate"
#: In the metadata of a pool's launch template: the name that its image was looked up by, where the configuration has no id.
IMAGE_NAME = "Image"
PROBE_PARTS = ("ProbeTemplate", "ProbeRole", "ProbePolicy", "ProbeSchedule")

#: Characters, without white space, of all policies of one role together.
LONGEST_POLICIES = 10_240
#: Bytes of a template that goes with the call itself.
LONGEST_TEMPLATE = 51_200


def stack_name(config: ScalerConfig) -> str:
    """The stack's name. Raises ``ConfigError`` when the configuration names none."""
    if config.aws.stack is None:
        raise ConfigError(
            "The configuration names no stack. Add `stack: scaler-sidecar-"
            f"{config.cluster}` to its section `aws`: leaders then launch by the stack's launch templates."
        )
    return config.aws.stack


def probe_template_name(config: ScalerConfig) -> str:
    # Pools' names may not begin with "-", so no pool's template has this name.
    return f"{stack_name(config)}--probe"


def probe_pool(config: ScalerConfig) -> PoolConfig:
    """The pool whose image and place the probe shares."""
    return config.probe_pool


def probe_subnet(config: ScalerConfig, ground: Ground) -> str:
    """Where probes start: a subnet whose zone offers their type, as the survey found."""
    return ground.probe_subnet or ground.pools[probe_pool(config).name].subnets[0]


def probe_tags(config: ScalerConfig) -> dict[str, str]:
    return {
        "Name": f"{config.cluster}-probe",
        tags.CLUSTER: config.cluster,
        tags.ROLE: NodeRole.PROBE.value,
    }


def probe_parameters(config: ScalerConfig, ground: Ground, template_id: str, token: str) -> dict[str, Any]:
    """RunInstances' parameters for one probe: the schedule's input, and what ``wake`` calls by itself."""
    listed = _tag_list(probe_tags(config))
    return {
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": token,
        "LaunchTemplate": {"LaunchTemplateId": template_id, "Version": "$Latest"},
        "SubnetId": probe_subnet(config, ground),
        "TagSpecifications": [{"ResourceType": kind, "Tags": listed} for kind in ("instance", "volume")],
    }


def render_template(config: ScalerConfig, ground: Ground, probe_user_data: str) -> dict[str, Any]:
    """The whole template. Raises ``ConfigError`` when something of it would exceed a limit of AWS."""
    pattern = _read("stack.yaml")
    resources: dict[str, Any] = {}
    ids = {pool.name: _logical_id(pool.name) for pool in config.pools}
    if len(set(ids.values())) < len(ids):
        raise ConfigError("Two pools' names differ only in where their hyphens stand; give one of them another name.")
    values = _values(config, ground, probe_user_data, ids)
    for name, resource in pattern["Resources"].items():
        if name == POOL_PATTERN:
            for pool in config.pools:
                resources[ids[pool.name]] = fill(resource, {**values, **_pool_values(config, ground, pool)})
        elif name not in PROBE_PARTS or config.zero_mode is ZeroMode.PROBE:
            resources[name] = fill(resource, values)
    template = {**fill({k: v for k, v in pattern.items() if k != "Resources"}, values), "Resources": resources}
    _refuse_too_long(template)
    return template


def image_of_stack(template: Mapping[str, Any], pool: PoolConfig) -> str | None:
    """The id that a deployed template has for this name of an image; ``None`` if it was made without the pool or for another."""
    resource = template.get("Resources", {}).get(_logical_id(pool.name), {})
    if resource.get("Metadata", {}).get(IMAGE_NAME) != pool.ami:
        return None
    return str(resource["Properties"]["LaunchTemplateData"]["ImageId"])


def template_text(template: dict[str, Any]) -> str:
    """The template as it is sent to CloudFormation."""
    return json.dumps(template, separators=(",", ":"))


def _values(config: ScalerConfig, ground: Ground, probe_user_data: str, ids: dict[str, str]) -> dict[str, Any]:
    cluster = config.cluster
    pool = probe_pool(config)
    templates = [_arn("launch-template", f"${{{logical_id}}}") for logical_id in ids.values()]
    pools_subnets = [subnet for ground_of in ground.pools.values() for subnet in ground_of.subnets]
    groups = [group for pool in config.pools for group in _security_groups(pool)]
    values: dict[str, Any] = {
        "cluster": cluster,
        "description": f"The scaler-sidecar cluster {cluster}, made by scaler-sidecar bootstrap from its scaler.yaml",
        "role-description": f"Nodes of the scaler-sidecar cluster {cluster}",
        "group-description": f"Nodes of the scaler-sidecar cluster {cluster}: nothing inbound",
        "probe-role-description": f"Launches the probe of the scaler-sidecar cluster {cluster}",
        "schedule-description": f"Launches the probe of the scaler-sidecar cluster {cluster}",
        "tags": _tag_list({tags.CLUSTER: cluster}),
        "vpc": ground.vpc,
        "pool-templates": templates,
        "pools": [pool.name for pool in config.pools],
        "instance-types": _once(type_ for pool in config.pools for type_ in pool.instance_types),
        **_volume_bounds(config, ground),
        "subnets": _arns("subnet", pools_subnets),
        "launch-sources": [
            *templates,
            *_arns("subnet", pools_subnets),
            *_arns("security-group", groups),
            *_images(ground.pools[pool.name].image_id for pool in config.pools),
            *_arns("key-pair", [pool.key_name for pool in config.pools if pool.key_name]),
        ],
        "probe-template-name": probe_template_name(config),
        "probe-image": ground.pools[pool.name].image_id,
        "probe-type": config.zero.probe_instance_type,
        "probe-security-groups": _group_ids(pool),
        "probe-root-device": ground.pools[pool.name].root_device,
        "probe-volume": _volume(None, ground.pools[pool.name].root_gb),
        "probe-user-data": probe_user_data,
        "probe-tags": _tag_list(probe_tags(config)),
        "probe-template": _arn("launch-template", "${ProbeTemplate}"),
        "probe-sources": [
            _arn("launch-template", "${ProbeTemplate}"),
            *_arns("subnet", [probe_subnet(config, ground)]),
            _arn("network-interface", "*"),
            *_arns("security-group", _security_groups(pool)),
            *_images([ground.pools[pool.name].image_id]),
        ],
        "probe-rate": _rate(config.zero.probe_every.seconds),
        "probe-input": json.dumps(
            probe_parameters(config, ground, "${ProbeTemplate}", "<aws.scheduler.execution-id>"), separators=(",", ":")
        ),
    }
    values["launch-policy"] = fill(_read("policies/launch.yaml"), values)
    values["node-policy"] = fill(_read("policies/node.yaml"), values)
    values["probe-policy"] = fill(_read("policies/probe_schedule.yaml"), values)
    return values


def _pool_values(config: ScalerConfig, ground: Ground, pool: PoolConfig) -> dict[str, Any]:
    volume = _volume(pool.volume, ground.pools[pool.name].root_gb)
    return {
        "template-name": config.aws.launch_template(pool.name),
        "image": ground.pools[pool.name].image_id,
        "image-name": None if is_image_id(pool.ami) else {IMAGE_NAME: pool.ami},
        "key-name": pool.key_name,
        "security-groups": _group_ids(pool),
        "root-device": ground.pools[pool.name].root_device,
        "volume": volume,
        "instance-tags": _tag_list(
            {
                "Name": f"{config.cluster}-{pool.name}",
                **pool.tags,
                tags.CLUSTER: config.cluster,
                tags.POOL: pool.name,
            }
        ),
    }


def _volume(volume: VolumeConfig | None, image_gb: int) -> dict[str, Any]:
    """Encrypted also where the image's snapshot is not; without a volume of the pool's own, of the image's size."""
    ebs: dict[str, Any] = {
        "Encrypted": True,
        "DeleteOnTermination": True,
        "VolumeType": "gp3",
        "VolumeSize": image_gb,
    }
    if volume is not None:
        ebs |= {"VolumeType": volume.type, "VolumeSize": volume.size_gb}
        ebs |= {"Iops": volume.iops} if volume.iops else {}
        ebs |= {"Throughput": volume.throughput} if volume.throughput else {}
    return ebs


def _volume_bounds(config: ScalerConfig, ground: Ground) -> dict[str, Any]:
    """What is the largest, and of which kinds, among the volumes that pools' own launches make."""
    made = [_volume(pool.volume, ground.pools[pool.name].root_gb) for pool in config.pools]
    more, probe = list(ground.pools.values()), ground.pools[probe_pool(config).name]
    sizes = [volume["VolumeSize"] for volume in made] + [gb for place in more for gb in place.more_gb]
    types = [volume["VolumeType"] for volume in made] + [type_ for place in more for type_ in place.more_types]
    # IAM may be told what EC2 gives unasked: 3 operations per GiB and 250 MiB/s (gp2), 3,000 and 125 (gp3).
    unasked = min(16_000, max(3_000, 3 * max(sizes))) if "gp2" in types else 3_000
    return {
        "volume-size": str(max(sizes)),
        "volume-types": _once(types),
        "volume-iops": str(max(unasked, *(volume.get("Iops", 0) for volume in made))),
        "volume-throughput": str(max(250, *(volume.get("Throughput", 0) for volume in made))),
        # The probe's volume is of the image's own size; the image's other volumes come with it.
        "probe-volume-size": str(max(probe.root_gb, *probe.more_gb, 0)),
        "probe-volume-types": _once(["gp3", *probe.more_types]),
    }


def _security_groups(pool: PoolConfig) -> tuple[str, ...]:
    """Ids, for use within ``Fn::Sub``."""
    return pool.security_groups or ("${NodeSecurityGroup.GroupId}",)


def _group_ids(pool: PoolConfig) -> list[Any]:
    return list(pool.security_groups) or [{"Fn::GetAtt": ["NodeSecurityGroup", "GroupId"]}]


def _arn(kind: str, name: str) -> dict[str, str]:
    return {"Fn::Sub": f"arn:${{AWS::Partition}}:ec2:${{AWS::Region}}:${{AWS::AccountId}}:{kind}/{name}"}


def _arns(kind: str, names: Iterable[str]) -> list[dict[str, str]]:
    return [_arn(kind, name) for name in _once(names)]


def _images(amis: Iterable[str]) -> list[dict[str, str]]:
    # ARNs of images name no account: they may belong to another one.
    return [{"Fn::Sub": f"arn:${{AWS::Partition}}:ec2:${{AWS::Region}}::image/{ami}"} for ami in _once(amis)]


def _once(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _tag_list(given: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in given.items()]


def _rate(seconds: float) -> str:
    minutes = round(seconds / 60)
    return "rate(1 minute)" if minutes == 1 else f"rate({minutes} minutes)"


def _logical_id(pool: str) -> str:
    """``PoolGpuSpot`` for ``gpu-spot``: CloudFormation takes letters and digits only."""
    return "Pool" + "".join(part[:1].upper() + part[1:] for part in pool.split("-"))


def _refuse_too_long(template: dict[str, Any]) -> None:
    lengths: Counter[str] = Counter()
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::IAM::Policy":
            document = json.dumps(_resolved(resource["Properties"]["PolicyDocument"]), separators=(",", ":"))
            lengths[resource["Properties"]["Roles"][0]["Ref"]] += len(document)
    for role, length in lengths.items():
        if length > LONGEST_POLICIES:
            raise ConfigError(
                f"The policies of {role} would have {length} characters and IAM takes {LONGEST_POLICIES}. Name fewer subnets, "
                "images, instance types or security groups, or divide the cluster."
            )
    size = len(template_text(template).encode())
    if size > LONGEST_TEMPLATE:
        raise ConfigError(
            f"The stack's template would have {size} bytes and CloudFormation takes {LONGEST_TEMPLATE}: too many pools for one "
            "cluster. Divide it."
        )


def _resolved(value: Any) -> Any:
    """The policy about as long as IAM will see it."""
    if isinstance(value, dict):
        if list(value) == ["Fn::Sub"]:
            text = str(value["Fn::Sub"]).replace("${AWS::Partition}", "aws").replace("${AWS::Region}", "eu-central-1")
            return text.replace("${AWS::AccountId}", "1" * 12).replace("${", "lt-0123456789").replace("}", "")
        if list(value) in (["Fn::GetAtt"], ["Ref"]):
            return "arn:aws:iam::111111111111:instance-profile/" + "x" * 64
        return {key: _resolved(inner) for key, inner in value.items()}
    return [_resolved(inner) for inner in value] if isinstance(value, list) else value


def _read(name: str) -> Any:
    return yaml.safe_load(files("scaler_plugin.bootstrapping").joinpath(name).read_text(encoding="utf-8"))
