"""Looks at the account before anything is changed: do images, places, types, keys and secrets exist, do they fit together, and is
the quota large enough?

Guarantees: it changes nothing; every finding is a sentence; an error means that instances could not start. What a caller may not
look at (quotas, secrets) is a warning, not an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.bootstrapping.ground import Ground, PoolGround
from scaler_plugin.bootstrapping.images import find_image_id
from scaler_plugin.bootstrapping.instance_types import find_type, misfit_of_driver, misfit_of_image, misfit_of_market
from scaler_plugin.bootstrapping.places import Places, find_places
from scaler_plugin.bootstrapping.quotas import quota_findings
from scaler_plugin.bootstrapping.stored_secrets import look_for_secrets
from scaler_plugin.bootstrapping.template import probe_pool
from scaler_plugin.config.pool_schema import PoolConfig, is_image_id
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.policy import ZeroMode
from scaler_plugin.errors import CloudRefused, ConfigError


@dataclass(frozen=True)
class Survey:
    """``ground`` is complete only without errors. ``notes`` say what was chosen where the configuration leaves a choice.

    ``missing_secrets`` are among the warnings: a stack can be made before, no instance can start. ``caller`` is the ARN that AWS
    knows this machine by, ``credentials`` where boto3 found what proves it.
    """

    ground: Ground
    account: str
    region: str
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    missing_secrets: tuple[str, ...] = ()
    caller: str = ""
    credentials: str = ""

    def refuse_errors(self) -> None:
        """Raise ``CloudRefused`` with every error that was found."""
        if self.errors:
            lines = "\n".join(f"  - {error}" for error in self.errors)
            raise CloudRefused(f"Nothing was changed, because instances could not start as configured:\n{lines}")


def survey(config: ScalerConfig, account: Account) -> Survey:
    """Look at everything that the configuration names. Raises ``CloudError`` when AWS cannot be asked at all."""
    identity = account.call("sts", "get_caller_identity", "this machine's credentials")
    errors: list[str] = []
    warnings: list[str] = []
    places = find_places(config, account)
    errors += places.errors
    warnings += places.warnings
    ids, missing = _image_ids(config, account)
    images = _images(ids, account)
    types = _types(config, account)
    roots: dict[str, tuple[str, int]] = {}
    for pool in config.pools:
        image = images.get(pool.ami)
        errors += [f"Pool {pool.name}: {missing[pool.ami]}"] if pool.ami in missing else _image_errors(pool, image)
        errors += _pool_errors(pool, image, types, places)
        warnings += _pool_warnings(pool, places)
        roots[pool.name] = _root(image or {})
    errors += _probe_errors(config, images, types, places)
    errors += _key_errors(config, account)
    quota_errors, quota_warnings = quota_findings(config, types, account)
    secrets = look_for_secrets(config, account)
    warnings += [*quota_warnings, *secrets.missing, *secrets.unknown, *_probe_warnings(config)]
    errors += quota_errors
    ground = Ground(
        places.vpc,
        {
            pool.name: PoolGround(
                places.subnets_of(pool),
                *roots[pool.name],
                ids.get(pool.ami, pool.ami),
                *_beside_root(images.get(pool.ami, {})),
            )
            for pool in config.pools
        },
        places.subnet_with(config.zero.probe_instance_type, probe_pool(config)) or "",
    )
    notes = tuple(_image_notes(config, images))
    return Survey(
        ground,
        identity["Account"],
        account.region,
        tuple(errors),
        tuple(warnings),
        notes,
        secrets.missing,
        identity.get("Arn", ""),
        account.credentials,
    )


def _image_ids(config: ScalerConfig, account: Account) -> tuple[dict[str, str], dict[str, str]]:
    """The id of each image as the configuration has it, and a sentence about each that cannot be found."""
    ids, missing = {}, {}
    for ami in dict.fromkeys(pool.ami for pool in config.pools):
        try:
            ids[ami] = find_image_id(ami, account)
        except ConfigError as error:
            missing[ami] = str(error)
    return ids, missing


def _images(ids: Mapping[str, str], account: Account) -> dict[str, dict[str, Any]]:
    """What EC2 says about each image, under the configuration's own word for it."""
    found = {}
    for ami, id_ in ids.items():
        answer = account.found("ec2", "describe_images", f"image {id_}", ImageIds=[id_])
        if answer and answer["Images"]:
            found[ami] = answer["Images"][0]
    return found


def _image_notes(config: ScalerConfig, images: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    for pool in config.pools:
        if pool.ami in images and not is_image_id(pool.ami):
            image = images[pool.ami]
            named = f" ({image['Name']})" if image.get("Name") else ""
            yield f"Pool {pool.name}: {pool.ami} is {image['ImageId']}{named}."


def _types(config: ScalerConfig, account: Account) -> dict[str, dict[str, Any]]:
    wanted = [type_ for pool in config.pools for type_ in pool.instance_types]
    if config.zero_mode is ZeroMode.PROBE:
        wanted.append(config.zero.probe_instance_type)
    found = {}
    # One by one: EC2 refuses the whole call for one unknown type, without saying which.
    for type_ in dict.fromkeys(wanted):
        answer = find_type(type_, account)
        if answer:
            found[type_] = answer
    return found


def _pool_errors(
    pool: PoolConfig, image: dict[str, Any] | None, types: dict[str, dict[str, Any]], places: Places
) -> Iterator[str]:
    where = f"Pool {pool.name}"
    for type_ in pool.instance_types:
        if type_ not in types:
            yield f"{where}: the instance type {type_} does not exist in this region."
            continue
        if image is not None and (misfit := misfit_of_image(type_, types[type_], image)):
            yield f"{where}: {misfit}."
        if image is not None and not pool.cpu_only and (misfit := misfit_of_driver(type_, types[type_], image)):
            yield f"{where}: {misfit}. Bake one with -var-file=ami/vars/gpu.json, or set cpu_only: true."
        if misfit := misfit_of_market(type_, types[type_], pool.market):
            yield f"{where}: {misfit}; leave it out, or make the pool on-demand."
    if not any(places.offered(type_, pool) for type_ in pool.instance_types if type_ in types):
        yield f"{where}: none of its instance types is offered in the zones of its subnets; name other types or subnets."


def _image_errors(pool: PoolConfig, image: dict[str, Any] | None) -> Iterator[str]:
    where = f"Pool {pool.name}"
    if image is None:
        yield f"{where}: the image {pool.ami} does not exist in this region, or is not shared with this account."
        return
    if image.get("State", "available") != "available":
        yield f"{where}: the image {pool.ami} is {image['State']}, not available; wait for it or bake another."
    root = image.get("RootDeviceName", "")
    if image.get("RootDeviceType", "ebs") != "ebs" or not root:
        yield f"{where}: the image {pool.ami} has no EBS root volume; such instances cannot be ended by their own shutdown."
    if pool.volume is None:
        return
    if root and pool.volume.device_name != root:
        yield (
            f"{where}: volume.device_name is {pool.volume.device_name} and the image's root device is {root}; the volume would be "
            f"a second one. Set volume.device_name: {root}."
        )
    _, least = _root(image)
    if pool.volume.size_gb < least:
        yield f"{where}: volume.size_gb is {pool.volume.size_gb}, below the image's own {least}."


def _root(image: dict[str, Any]) -> tuple[str, int]:
    """The image's root device and its size in GiB."""
    root = image.get("RootDeviceName", "")
    sizes = [
        m.get("Ebs", {}).get("VolumeSize") for m in image.get("BlockDeviceMappings", []) if m.get("DeviceName") == root
    ]
    return root, sizes[0] if sizes and sizes[0] else 8


def _beside_root(image: dict[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The sizes in GiB and the kinds of the image's other EBS volumes."""
    mappings = image.get("BlockDeviceMappings", [])
    volumes = [m["Ebs"] for m in mappings if m.get("DeviceName") != image.get("RootDeviceName") and m.get("Ebs")]
    return tuple(v.get("VolumeSize", 8) for v in volumes), tuple(v.get("VolumeType", "gp2") for v in volumes)


def _probe_errors(
    config: ScalerConfig, images: dict[str, dict[str, Any]], types: dict[str, dict[str, Any]], places: Places
) -> Iterator[str]:
    if config.zero_mode is not ZeroMode.PROBE:
        return
    type_, image = config.zero.probe_instance_type, images.get(probe_pool(config).ami)
    if type_ not in types:
        yield f"zero.probe_instance_type: the instance type {type_} does not exist in this region."
    elif image is not None and (misfit := misfit_of_image(type_, types[type_], image)):
        yield f"zero.probe_instance_type: {misfit}."
    if type_ in types and not places.offered(type_, probe_pool(config)):
        yield (
            f"zero.probe_instance_type: {type_} is not offered in any zone of the subnets of pool {probe_pool(config).name}, where "
            "probes start; name another type, or give that pool a subnet in another zone."
        )


def _pool_warnings(pool: PoolConfig, places: Places) -> Iterator[str]:
    free = places.free_addresses(pool)
    if 0 < free < pool.max_instances:
        yield f"Pool {pool.name}: its subnets have {free} free addresses, and max_instances is {pool.max_instances}."


def _probe_warnings(config: ScalerConfig) -> Iterator[str]:
    pool = probe_pool(config)
    if config.zero_mode is ZeroMode.PROBE and pool.first_boot is not None:
        yield (
            f"The probe has the stock image of pool {pool.name} and installs everything each time, "
            f"every {config.zero.probe_every}. Bake an image for that pool, or set zero.mode to standby or keep_one."
        )


def _key_errors(config: ScalerConfig, account: Account) -> Iterator[str]:
    names: Iterable[str] = dict.fromkeys(pool.key_name for pool in config.pools if pool.key_name)
    for name in names:
        if account.found("ec2", "describe_key_pairs", f"key pair {name}", KeyNames=[name]) is None:
            yield f"The key pair {name} does not exist in this region; create it or leave key_name out."
