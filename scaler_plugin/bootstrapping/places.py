"""Where instances may start: the subnets behind a pool's subnets, zones or nothing, their VPC, and what is offered there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.config.pool_schema import PoolConfig
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.policy import ZeroMode


@dataclass
class Places:
    """Filled in by :func:`find_places`."""

    vpc: str = ""
    subnets: dict[str, dict[str, Any]] = field(default_factory=dict)  # by id, as EC2 describes them
    of_pool: dict[str, tuple[str, ...]] = field(default_factory=dict)
    offers: Mapping[str, frozenset[str]] = field(default_factory=dict)  # instance type → zones
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def subnets_of(self, pool: PoolConfig) -> tuple[str, ...]:
        return self.of_pool.get(pool.name, ())

    def offered(self, type_: str, pool: PoolConfig) -> bool:
        """Whether EC2 offers the type in some zone of the pool; true where the pool's places are not known."""
        return not self.subnets_of(pool) or self.subnet_with(type_, pool) is not None

    def subnet_with(self, type_: str, pool: PoolConfig) -> str | None:
        """The first of the pool's subnets in whose zone EC2 offers the type; where it names no zone of a type, any."""
        zones = self.offers.get(type_)
        for subnet in self.subnets_of(pool):
            if zones is None or self.subnets[subnet]["AvailabilityZone"] in zones:
                return subnet
        return None

    def free_addresses(self, pool: PoolConfig) -> int:
        return sum(self.subnets[subnet].get("AvailableIpAddressCount", 0) for subnet in self.subnets_of(pool))


def find_places(config: ScalerConfig, account: Account) -> Places:
    """Look the places of every pool up. Mistakes are in ``errors``."""
    places = Places()
    for pool in config.pools:
        places.of_pool[pool.name] = tuple(_subnets(pool, account, places))
    _choose_vpc(config, places)
    _check_groups(config, account, places)
    places.offers = _offers(config, account)
    return places


def _subnets(pool: PoolConfig, account: Account, places: Places) -> Iterator[str]:
    for subnet in pool.subnets:
        answer = account.found("ec2", "describe_subnets", f"subnet {subnet}", SubnetIds=[subnet])
        if not answer or not answer["Subnets"]:
            places.errors.append(f"Pool {pool.name}: the subnet {subnet} does not exist in this region.")
            continue
        places.subnets[subnet] = answer["Subnets"][0]
        yield subnet
    if pool.subnets:
        return
    filters = [{"Name": "default-for-az", "Values": ["true"]}]
    if pool.zones:
        filters.append({"Name": "availability-zone", "Values": list(pool.zones)})
    found = account.pages("ec2", "describe_subnets", "Subnets", "default subnets", Filters=filters)
    for described in sorted(found, key=lambda subnet: str(subnet["AvailabilityZone"])):
        places.subnets[described["SubnetId"]] = described
        yield described["SubnetId"]
    missing = set(pool.zones) - {described["AvailabilityZone"] for described in found}
    for zone in sorted(missing):
        places.errors.append(f"Pool {pool.name}: the zone {zone} has no default subnet; name subnets instead.")
    if not found and not pool.zones:
        places.errors.append(f"Pool {pool.name}: the region has no default VPC; name the pool's subnets.")


def _choose_vpc(config: ScalerConfig, places: Places) -> None:
    """The VPC of the stack's security group: that of the pools which use it."""
    users = [pool for pool in config.pools if not pool.security_groups] or list(config.pools)
    vpcs = list(dict.fromkeys(places.subnets[s]["VpcId"] for pool in users for s in places.subnets_of(pool)))
    places.vpc = vpcs[0] if vpcs else ""
    if len(vpcs) > 1 and any(not pool.security_groups for pool in users):
        places.errors.append(
            f"The pools' subnets lie in different VPCs ({', '.join(vpcs)}), and the stack's security group lies in one. Give the "
            "pools of all VPCs but one security_groups of their own."
        )


def _check_groups(config: ScalerConfig, account: Account, places: Places) -> None:
    groups: dict[str, str | None] = {}
    for pool in config.pools:
        vpcs = {places.subnets[subnet]["VpcId"] for subnet in places.subnets_of(pool)}
        for group in pool.security_groups:
            if group not in groups:
                answer = account.found("ec2", "describe_security_groups", f"security group {group}", GroupIds=[group])
                groups[group] = answer["SecurityGroups"][0]["VpcId"] if answer and answer["SecurityGroups"] else None
            if groups[group] is None:
                places.errors.append(f"Pool {pool.name}: the security group {group} does not exist in this region.")
            elif vpcs and groups[group] not in vpcs:
                places.errors.append(
                    f"Pool {pool.name}: the security group {group} belongs to another VPC than its subnets."
                )


def _offers(config: ScalerConfig, account: Account) -> dict[str, frozenset[str]]:
    types = list(dict.fromkeys(type_ for pool in config.pools for type_ in pool.instance_types))
    if config.zero_mode is ZeroMode.PROBE:
        types.append(config.zero.probe_instance_type)
    found = account.pages(
        "ec2",
        "describe_instance_type_offerings",
        "InstanceTypeOfferings",
        "the zones of the instance types",
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": types}],
    )
    zones: dict[str, set[str]] = {}
    for offer in found:
        zones.setdefault(offer["InstanceType"], set()).add(offer["Location"])
    return {type_: frozenset(where) for type_, where in zones.items()}
