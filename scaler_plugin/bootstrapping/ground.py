"""What AWS says about the places and images that a configuration names; the stack is made from both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PoolGround:
    """``subnets`` are those the pool may launch into, also where the configuration names zones or nothing. ``root_device`` and
    ``root_gb`` are those of its image, and ``image_id`` is that image's, also where the configuration has a name for it.
    ``more_gb`` and ``more_types`` are the sizes and kinds of the volumes that the image brings beside its root.
    """

    subnets: tuple[str, ...]
    root_device: str
    root_gb: int
    image_id: str
    more_gb: tuple[int, ...] = ()
    more_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ground:
    """``vpc`` is where the stack's security group belongs. ``probe_subnet`` is where probes start: the zone offers their type."""

    vpc: str
    pools: Mapping[str, PoolGround]
    probe_subnet: str = ""
