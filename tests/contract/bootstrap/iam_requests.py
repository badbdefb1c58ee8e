"""What IAM checks for a request: one check per resource that it touches, with the keys that AWS documents for each.

Source: "Actions, resources, and condition keys for Amazon EC2" in the service authorization reference. RunInstances is checked for
the instance, each volume, network interface, subnet, security group, the image, the key pair, the launch template and snapshots of
which volumes are made; tags in the call are a CreateTags of their own; an instance profile is a PassRole of its role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .resolving import ACCOUNT, IDS, REGION


@dataclass(frozen=True)
class Check:
    action: str
    resource: str
    context: Mapping[str, Any] = field(default_factory=dict)


def ec2_arn(kind: str, name: str, region: str = REGION, account: str = ACCOUNT) -> str:
    return f"arn:aws:ec2:{region}:{account}:{kind}/{name}"


def checks_of_launch(
    parameters: Mapping[str, Any], template: Mapping[str, Any] | None, template_id: str | None, region: str = REGION
) -> list[Check]:
    """The checks of one RunInstances call. ``template`` is the LaunchTemplateData behind it, resolved."""
    merged = {
        **(template or {}),
        **{k: v for k, v in parameters.items() if k not in ("TagSpecifications", "LaunchTemplate")},
    }
    tags = _tags(parameters, template)
    common: dict[str, Any] = {"aws:RequestedRegion": region}
    if template_id:
        common["ec2:LaunchTemplate"] = ec2_arn("launch-template", template_id, region)
    subnet = ec2_arn("subnet", merged["SubnetId"], region)
    metadata = merged.get("MetadataOptions", {})
    instance = {
        **common,
        **{f"aws:RequestTag/{key}": value for key, value in tags.get("instance", {}).items()},
        "ec2:InstanceType": merged["InstanceType"],
        "ec2:MetadataHttpTokens": metadata.get("HttpTokens", "optional"),
        "ec2:MetadataHttpPutResponseHopLimit": str(metadata.get("HttpPutResponseHopLimit", 1)),
        "ec2:Tenancy": merged.get("Placement", {}).get("Tenancy", "default"),
    }
    profile = merged.get("IamInstanceProfile")
    if profile:
        instance["ec2:InstanceProfile"] = profile["Arn"]
    volume_tags = {f"aws:RequestTag/{key}": value for key, value in tags.get("volume", {}).items()}
    volumes = _volumes(parameters, template)
    checks = [
        Check("ec2:RunInstances", ec2_arn("instance", "*", region), instance),
        *(
            Check("ec2:RunInstances", ec2_arn("volume", "*", region), {**common, **volume_tags, **_volume_keys(volume)})
            for volume in volumes
        ),
        Check("ec2:RunInstances", ec2_arn("network-interface", "*", region), {**common, "ec2:Subnet": subnet}),
        Check("ec2:RunInstances", subnet, common),
        Check("ec2:RunInstances", f"arn:aws:ec2:{region}::image/{merged['ImageId']}", common),
    ]
    checks += [
        Check("ec2:RunInstances", ec2_arn("security-group", group, region), common)
        for group in merged["SecurityGroupIds"]
    ]
    checks += [
        Check("ec2:RunInstances", f"arn:aws:ec2:{region}::snapshot/{volume['SnapshotId']}", common)
        for volume in volumes
        if "SnapshotId" in volume
    ]
    if merged.get("KeyName"):
        checks.append(Check("ec2:RunInstances", ec2_arn("key-pair", merged["KeyName"], region), common))
    if template_id:
        checks.append(Check("ec2:RunInstances", ec2_arn("launch-template", template_id, region), common))
    for kind, given in tags.items():
        checks.append(tagging(kind, "*", given, region, created_by="RunInstances"))
    if profile:
        role = IDS["NodeRole.Arn"] if profile["Arn"] == IDS["NodeProfile.Arn"] else f"arn:aws:iam::{ACCOUNT}:role/admin"
        checks.append(Check("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"}))
    return checks


def tagging(
    kind: str, name: str, given: Mapping[str, str], region: str = REGION, created_by: str | None = None
) -> Check:
    context = {f"aws:RequestTag/{key}": value for key, value in given.items()}
    if created_by:
        context["ec2:CreateAction"] = created_by
    return Check("ec2:CreateTags", ec2_arn(kind, name, region), context)


def _volumes(parameters: Mapping[str, Any], template: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The call's word about a device goes over the template's."""
    devices: dict[str, dict[str, Any]] = {}
    for source in (template or {}, parameters):
        for mapping in source.get("BlockDeviceMappings", []):
            devices.setdefault(mapping["DeviceName"], {}).update(mapping["Ebs"])
    return list(devices.values())


def _volume_keys(volume: Mapping[str, Any]) -> dict[str, str]:
    keys = {
        "ec2:Encrypted": str(volume.get("Encrypted", False)).lower(),
        "ec2:VolumeSize": str(volume.get("VolumeSize", 8)),
        "ec2:VolumeType": volume.get("VolumeType", "gp2"),
    }
    # Whether IAM is told what EC2 gives unasked is not documented: a case of its own says it.
    given = {"ec2:VolumeIops": "Iops", "ec2:VolumeThroughput": "Throughput"}
    return keys | {key: str(volume[name]) for key, name in given.items() if name in volume}


def _tags(parameters: Mapping[str, Any], template: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
    merged: dict[str, dict[str, str]] = {}
    for source in (template or {}, parameters):
        for specification in source.get("TagSpecifications", []):
            tags = merged.setdefault(specification["ResourceType"], {})
            tags.update({tag["Key"]: tag["Value"] for tag in specification["Tags"]})
    return merged
