"""Images that the configuration names by something else than their id: what they are called, or an SSM parameter.

Guarantees: leaders get ids only. A name is looked up by a person's rights, when that person applies or pushes; so an image that
comes later, by whomever, starts nowhere before somebody has said so again, and the nodes' rights stay bounded to ids. With a stack,
what is published is what the stack's `apply` found: anything newer, leaders may not launch.
Does not look whether the image fits its pool: that is the survey's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.bootstrapping.template import image_of_stack
from scaler_plugin.config.pool_schema import IMAGE_BY_NAME, IMAGE_BY_PARAMETER, PoolConfig, is_image_id
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.errors import ConfigError


def find_image_id(ami: str, account: Account) -> str:
    """The id that ``pools[].ami`` stands for now. Raises ``ConfigError`` when it stands for none, ``CloudError`` for AWS."""
    if ami.startswith(IMAGE_BY_PARAMETER):
        return _from_parameter(ami, account)
    if ami.startswith(IMAGE_BY_NAME):
        return _newest_of_name(ami, account)
    return ami


def with_image_ids(
    config: ScalerConfig, account: Account, deployed_template: Callable[[], Mapping[str, Any]]
) -> ScalerConfig:
    """The configuration with ids in place of names, as it is published. ``deployed_template`` is the stack's; it is asked for only
    when there are a stack and a name. Raises ``ConfigError`` and ``CloudError``.
    """
    if all(is_image_id(pool.ami) for pool in config.pools):
        return config
    template = deployed_template() if config.aws.stack else None
    pools = tuple(_with_image_id(pool, config, account, template) for pool in config.pools)
    return config.model_copy(update={"pools": pools})


def _with_image_id(
    pool: PoolConfig, config: ScalerConfig, account: Account, template: Mapping[str, Any] | None
) -> PoolConfig:
    if is_image_id(pool.ami):
        return pool
    if template is None:
        return pool.model_copy(update={"ami": find_image_id(pool.ami, account)})
    found = image_of_stack(template, pool)
    if found is None:
        raise ConfigError(
            f"The stack {config.aws.stack} has not looked up the image of pool {pool.name} yet ({pool.ami}), and leaders may launch"
            " only what it allows. Call `scaler-sidecar bootstrap apply` first."
        )
    return pool.model_copy(update={"ami": found})


def _from_parameter(ami: str, account: Account) -> str:
    name = ami[len(IMAGE_BY_PARAMETER) :]
    answer = account.found("ssm", "get_parameter", f"parameter {name}", Name=name)
    value = str(answer["Parameter"]["Value"]) if answer else ""
    if is_image_id(value):
        return value
    # The value itself is not shown: a wrong name may lead to a secret.
    what = "holds no AMI id" if answer else "does not exist in this region"
    raise ConfigError(f"{ami}: the parameter {what}; name one whose value is an AMI id.")


def _newest_of_name(ami: str, account: Account) -> str:
    owner, _, pattern = ami[len(IMAGE_BY_NAME) :].rpartition(":")
    filters = [{"Name": "name", "Values": [pattern]}, {"Name": "state", "Values": ["available"]}]
    # Never without an owner: anybody may publish an image of any name.
    images = account.pages(
        "ec2", "describe_images", "Images", f"images named {pattern}", Owners=[owner or "self"], Filters=filters
    )
    now = datetime.now(timezone.utc).isoformat()
    # EC2 writes times so that their texts sort, and shows an owner's deprecated images as any other.
    kept = [image for image in images if not image.get("DeprecationTime") or image["DeprecationTime"] > now]
    newest = max(kept, key=lambda image: str(image.get("CreationDate", "")), default=None)
    if newest is None:
        whose = f"account {owner} shares" if owner else "this account has"
        raise ConfigError(
            f"{ami}: {whose} no available image of such a name in this region; bake one, or correct the name."
        )
    return str(newest["ImageId"])
