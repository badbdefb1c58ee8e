"""Whether an instance type is what a pool needs it to be: it exists, runs the pool's image, and is sold in the pool's market."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.core.model import Market
from scaler_plugin.errors import CloudRefused

#: What `packer.json` says of an image. Tags are seen by the account that set them.
IMAGE_VARIANT_TAG = "scaler-sidecar:variant"


def find_type(type_: str, account: Account) -> dict[str, Any] | None:
    """What EC2 says about the type; ``None`` if the region has none of that name. Raises ``CloudError``."""
    try:
        answer = account.call("ec2", "describe_instance_types", f"instance type {type_}", InstanceTypes=[type_])
    except CloudRefused as refused:
        if refused.code in ("InvalidInstanceType", "InvalidParameterValue"):
            return None
        raise
    return answer["InstanceTypes"][0] if answer["InstanceTypes"] else None


def misfit_of_image(type_: str, described: Mapping[str, Any], image: Mapping[str, Any]) -> str | None:
    """Why the type can't run the image, without a full stop."""
    supported = described.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    architecture = image.get("Architecture", "x86_64")
    if not supported or architecture in supported:
        return None
    return f"{type_} is {' or '.join(supported)}, and the image {image['ImageId']} is {architecture}"


def misfit_of_driver(type_: str, described: Mapping[str, Any], image: Mapping[str, Any]) -> str | None:
    """Why the image can't serve the type's GPUs, without a full stop. Only images that carry `packer.json`'s tags are known so."""
    gpus = [gpu for gpu in described.get("GpuInfo", {}).get("Gpus", []) if gpu.get("Manufacturer") == "NVIDIA"]
    if not gpus or {"Key": IMAGE_VARIANT_TAG, "Value": "cpu"} not in image.get("Tags", []):
        return None
    return f"{type_} has GPUs, and the image {image['ImageId']} was baked without their driver: its nodes would be unfit for tasks"


def misfit_of_market(type_: str, described: Mapping[str, Any], market: Market) -> str | None:
    """Why the type can't be had in the market, without a full stop."""
    if market is not Market.SPOT or "spot" in described.get("SupportedUsageClasses", []):
        return None
    return f"{type_} is not sold as spot"
