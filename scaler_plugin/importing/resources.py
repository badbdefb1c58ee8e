"""A resource of the original becomes a pool: its machine, its places, its limits."""

from __future__ import annotations

import re
from typing import Any

from scaler_plugin.config.pool_schema import AMI, IMAGE_BY_NAME, is_image_id
from scaler_plugin.importing.fitting import misfit
from scaler_plugin.importing.plain import listed, tags
from scaler_plugin.importing.report import Part, Report

#: The original's own default, where a device is named without a size.
_VOLUME_GB = 80

_ROLLBACK = (
    "give the same queue to a second pool with market: on-demand after this one: it takes what the first cannot get"
)
#: From which of the original's keys a pool's setting comes, where it does.
SOURCES = {
    "instance_types": ("instance_type",),
    "market": ("is_spot",),
    "ami": ("ami_id",),
    "subnets": ("subnet_id",),
    "zones": ("availability_zone",),
    "security_groups": ("security_group_ids",),
    "volume": ("ebs_device_name", "ebs_volume_size", "ebs_volume_type"),
}
_REFUSALS = {
    "ebs_snapshot_id": "instances start from the image alone; bake the snapshot's data into the image, or mount it in init_script",
    "enable_monitoring": "there is no setting for detailed monitoring; `scaler-sidecar status` shows the nodes and their load",
    "regular_instance_rollback": _ROLLBACK,
    "regular_instance_rollback_timeout": _ROLLBACK,
    "spot_instance_blackout_period": "an instance type without capacity is left alone for a while by itself",
}


def translate_machine(part: Part, ami: str | None, stack: bool, region: str | None) -> dict[str, Any]:
    """The keys of the pool that say what its instances are. ``ami``: one to use instead of the file's."""
    pool: dict[str, Any] = {}
    _type_and_market(part, pool)
    _image(part, pool, ami)
    _place(part, pool, region)
    _volume(part, pool)
    if key_name := part.take("key_name"):
        pool["key_name"] = str(key_name)
        part.report.translated(part.key("key_name"), f"key_name: {key_name}")
    else:
        part.empty("key_name")
    _tags(part, pool)
    cpu_only = part.take("cpu_only")
    if part.has("cpu_only"):
        if cpu_only:
            pool["cpu_only"] = True
        part.report.translated(part.key("cpu_only"), f"cpu_only: {str(bool(cpu_only)).lower()}")
    _extras(part, pool, stack)
    for name, reason in _REFUSALS.items():
        if part.take(name):
            part.report.not_translated(part.key(name), reason)
        else:
            part.empty(name)
    part.close()
    return pool


def _type_and_market(part: Part, pool: dict[str, Any]) -> None:
    types = listed(part.take("instance_type") or "")
    if types:
        pool["instance_types"] = types
        part.report.translated(
            part.key("instance_type"),
            f"instance_types: [{', '.join(types)}]; more may follow, for when there is no capacity",
        )
    else:
        part.report.not_translated(part.key("instance_type"), "it is missing; add instance_types to the pool")
    spot = bool(part.take("is_spot"))
    pool["market"] = "spot" if spot else "on-demand"
    if part.has("is_spot"):
        part.report.translated(part.key("is_spot"), f"market: {pool['market']}")


def _image(part: Part, pool: dict[str, Any], ami: str | None) -> None:
    given = part.take("ami_id")
    key = part.key("ami_id")
    if ami:
        pool["ami"] = ami
        part.report.not_needed(key, f"ami: {ami} was given instead")
    elif isinstance(given, str) and (found := _by_id_or_name(given)):
        pool["ami"] = found
        source = f"source_ami={given}" if is_image_id(found) else "source_ami=ITS-ID"
        own = ", looked up among the images of your own account" if found.startswith(IMAGE_BY_NAME) else ""
        part.report.translated(
            key,
            f"ami: {found}{own}. It has no sidecar yet: bake one from it (packer build -var {source} packer.json; further "
            "variables if it is not Ubuntu 24.04: ami/README.md) and put the new image's id or name here",
        )
    else:
        part.report.not_translated(
            key, f"it names no image; bake one with packer.json and give it with --ami. Allowed: {AMI.words}"
        )


def _by_id_or_name(given: str) -> str | None:
    """The original took what RunInstances takes, its parameters included; the hosted one an image's name, too."""
    for candidate in (given, IMAGE_BY_NAME + given):
        if re.fullmatch(AMI.pattern, candidate):
            return candidate
    return None


def _place(part: Part, pool: dict[str, Any], region: str | None) -> None:
    subnets, zones = listed(part.take("subnet_id") or ""), listed(part.take("availability_zone") or "")
    if subnets:
        pool["subnets"] = subnets
        part.report.translated(
            part.key("subnet_id"), f"subnets: [{', '.join(subnets)}]; each further one is tried, too"
        )
    else:
        part.empty("subnet_id")
    if zones and subnets:
        part.report.not_needed(part.key("availability_zone"), "a subnet lies in one zone already")
    elif zones and region and not all(zone.startswith(region) for zone in zones):
        part.report.not_translated(part.key("availability_zone"), f"not every one lies in aws.region, {region}")
    elif zones:
        pool["zones"] = zones
        part.report.translated(part.key("availability_zone"), f"zones: [{', '.join(zones)}]")
    else:
        part.empty("availability_zone")
    if groups := listed(part.take("security_group_ids") or ""):
        pool["security_groups"] = groups
        part.report.translated(part.key("security_group_ids"), f"security_groups: [{', '.join(groups)}]")
    else:
        part.empty("security_group_ids")


def _volume(part: Part, pool: dict[str, Any]) -> None:
    device, size, type_ = (part.take(name) for name in ("ebs_device_name", "ebs_volume_size", "ebs_volume_type"))
    names = [name for name in ("ebs_device_name", "ebs_volume_size", "ebs_volume_type") if part.has(name)]
    if not device:
        for name in names:
            part.report.not_needed(part.key(name), "without ebs_device_name the original takes the image's own volume")
        return
    gigabytes = int(size) if re.fullmatch(r"[0-9]{1,9}", str(size or "")) else _VOLUME_GB
    volume = {"size_gb": gigabytes, "type": str(type_ or "gp3"), "device_name": str(device)}
    if volume["type"] in ("io1", "io2"):
        volume["type"] = "gp3"
        part.report.not_translated(
            part.key("ebs_volume_type"), f"{type_} needs a number of iops; volume.type: gp3 was written instead"
        )
        names.remove("ebs_volume_type")
    pool["volume"] = volume
    said = {"ebs_device_name": f"volume.device_name: {device}", "ebs_volume_size": f"volume.size_gb: {gigabytes}"}
    for name in names:
        part.report.translated(part.key(name), said.get(name, f"volume.type: {volume['type']}, encrypted"))


def _tags(part: Part, pool: dict[str, Any]) -> None:
    given = part.take("tags")
    if given is None:
        part.empty("tags")
        return
    found = dict(given) if isinstance(given, dict) else tags(given)
    if found is None:
        part.report.not_translated(
            part.key("tags"), "it is not of the form name=value, name=value; write tags into the pool"
        )
        return
    kept = tags_that_fit({str(name): str(value) for name, value in found.items()}, part.key("tags"), part.report)
    if kept:
        pool["tags"] = kept
        part.report.translated(part.key("tags"), f"tags: {len(kept)} of them")


def _extras(part: Part, pool: dict[str, Any], stack: bool) -> None:
    """The original merges this section into its call of RunInstances."""
    extras = part.take("extra_configurations")
    if not isinstance(extras, dict):
        part.empty("extra_configurations")
        return
    for name, value in extras.items():
        key = part.key(f"extra_configurations.{name}")
        profile = value.get("Arn") or value.get("Name") if isinstance(value, dict) else None
        if name == "IamInstanceProfile" and profile:
            set_profile(pool, str(profile), key, part, stack)
        else:
            part.report.not_translated(
                key, "requests cannot be extended freely; look in docs/configuration.md for a setting"
            )


def tags_that_fit(given: dict[str, str], key: str, report: Report) -> dict[str, str]:
    """Those that EC2 and our schema take; a line for each of the others."""
    kept = {}
    for name, text in given.items():
        if reason := misfit("tags", {name: text}):
            report.not_translated(key, f"the tag {name} was left out: {reason}")
        else:
            kept[name] = text
    return kept


def set_profile(pool: dict[str, Any], profile: str, key: str, part: Part, stack: bool) -> None:
    """Give the pool the instance profile, unless the stack brings one."""
    if stack:
        part.report.not_needed(key, "the stack makes the nodes' profile; put further rights of tasks elsewhere")
        return
    if reason := misfit("instance_profile", profile):
        part.report.not_translated(key, f"it was left out: {reason}")
        return
    pool["instance_profile"] = profile
    part.report.translated(
        key, f"instance_profile: {profile}. Its role must allow what a leader does (bootstrap/policies), or use --stack"
    )
