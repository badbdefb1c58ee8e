"""Whether EC2's vCPU quotas allow the pools' maxima.

EC2 counts running vCPUs per family group and market. Codes: "Amazon EC2 service quotas" in the EC2 user guide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.model import Market
from scaler_plugin.errors import CloudError

#: (first letters of the family, name of the group, quota on-demand, quota spot). The longer names first: "inf" is not "i". The spot
#: quota of some generations stands alone: "All P4, P3 and P2 Spot Instance Requests", "All P5 Spot Instance Requests". Which one
#: counts later generations (p6) is not known: ``None``.
_GROUPS: tuple[tuple[tuple[str, ...], str, str, str | None], ...] = (
    (("inf",), "Inf", "L-1945791B", "L-B5D1601B"),
    (("trn",), "Trn", "L-2C3B7624", "L-6B0D517C"),
    (("dl",), "DL", "L-6E869C2A", "L-85EED4F7"),
    (("f",), "F", "L-74FC7D96", "L-88CF9481"),
    (("g", "vt"), "G and VT", "L-DB2E81BA", "L-3819A6DF"),
    (("p2", "p3", "p4"), "P", "L-417A185B", "L-7212CCBC"),
    (("p5",), "P", "L-417A185B", "L-C4BD4855"),
    (("p",), "P", "L-417A185B", None),
    (("x",), "X", "L-7295265B", "L-E3A00192"),
    (("a", "c", "d", "h", "i", "m", "r", "t", "z"), "Standard", "L-1216C47A", "L-34B43A08"),
)

#: Families with quotas of their own, one by one or per host, that begin with a letter of another group.
_OWN_QUOTAS = ("hpc", "mac", "u-")


def quota_of(instance_type: str, market: Market) -> tuple[str, str] | None:
    """The quota's code and its name, ``None`` for a family that this version does not know."""
    if instance_type.startswith(_OWN_QUOTAS):
        return None
    for prefixes, name, on_demand, spot in _GROUPS:
        if instance_type.startswith(prefixes):
            code = spot if market is Market.SPOT else on_demand
            return (code, f"{name} instances, {market.value}") if code else None
    return None


def quota_findings(
    config: ScalerConfig, types: Mapping[str, dict[str, Any]], account: Account
) -> tuple[list[str], list[str]]:
    """Errors (not even one instance fits) and warnings (fewer than the maxima fit)."""
    needed: Counter[tuple[str, str]] = Counter()
    least: dict[tuple[str, str], int] = {}
    unknown: dict[str, None] = {}
    for pool in config.pools:
        # By quota, the largest type that the pool may launch.
        largest: dict[tuple[str, str], int] = {}
        for type_ in pool.instance_types:
            vcpus = types.get(type_, {}).get("VCpuInfo", {}).get("DefaultVCpus", 0)
            quota = quota_of(type_, pool.market)
            if quota is None:
                unknown[f"{type_} ({pool.market.value})"] = None
            elif vcpus:
                largest[quota] = max(largest.get(quota, 0), vcpus)
                least[quota] = min(least.get(quota, vcpus), vcpus)
        for quota, vcpus in largest.items():
            needed[quota] += vcpus * pool.max_instances
    errors, warnings = [], []
    if unknown:
        warnings.append(
            f"Which quota counts {', '.join(unknown)} is not known here, so it was not checked. Look at the account's: "
            "aws service-quotas list-service-quotas --service-code ec2"
        )
    for quota, vcpus in sorted(needed.items()):
        code, name = quota
        try:
            answer = account.call(
                "service-quotas", "get_service_quota", f"quota {code} ({name})", ServiceCode="ec2", QuotaCode=code
            )
        except CloudError as error:
            warnings.append(f"The quota {code} ({name}) is not known: {error}")
            continue
        allowed = int(answer["Quota"]["Value"])
        how = f"Ask for more: aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {code}"
        if allowed < least[quota]:
            errors.append(f"The quota {code} ({name}) is {allowed} vCPUs: not one instance may start. {how}")
        elif allowed < vcpus:
            warnings.append(f"The quota {code} ({name}) is {allowed} vCPUs, and the pools' maxima need {vcpus}. {how}")
    return errors, warnings
