"""Quotas: which one counts for a type, and what is said when it is small or not known."""

from __future__ import annotations

import pytest

from scaler_plugin.bootstrapping.quotas import quota_findings, quota_of
from scaler_plugin.core.model import Market
from scaler_plugin.errors import CloudRefused

from .made_up import CONFIG, config
from .scripted_account import ScriptedAccount

TYPES = {
    name: {"VCpuInfo": {"DefaultVCpus": vcpus}}
    for name, vcpus in {"g5.xlarge": 4, "g4dn.xlarge": 4, "c6i.2xlarge": 8}.items()
}


@pytest.mark.parametrize(
    ("type_", "market", "code"),
    [
        ("c6i.xlarge", Market.ON_DEMAND, "L-1216C47A"),
        ("t3.micro", Market.SPOT, "L-34B43A08"),
        ("g5.xlarge", Market.SPOT, "L-3819A6DF"),
        ("p4d.24xlarge", Market.ON_DEMAND, "L-417A185B"),
        ("p5.48xlarge", Market.ON_DEMAND, "L-417A185B"),
        ("p6-b200.48xlarge", Market.ON_DEMAND, "L-417A185B"),
        ("p4d.24xlarge", Market.SPOT, "L-7212CCBC"),
        ("p3.2xlarge", Market.SPOT, "L-7212CCBC"),
        ("p5.48xlarge", Market.SPOT, "L-C4BD4855"),
        ("p5en.48xlarge", Market.SPOT, "L-C4BD4855"),
        ("dl1.24xlarge", Market.SPOT, "L-85EED4F7"),
        ("vt1.3xlarge", Market.SPOT, "L-3819A6DF"),
        ("inf2.xlarge", Market.SPOT, "L-B5D1601B"),
        ("trn1.32xlarge", Market.SPOT, "L-6B0D517C"),
        ("inf2.xlarge", Market.ON_DEMAND, "L-1945791B"),
        ("i4i.large", Market.ON_DEMAND, "L-1216C47A"),
        ("trn1.2xlarge", Market.ON_DEMAND, "L-2C3B7624"),
    ],
)
def test_each_family_counts_against_its_own_quota(type_: str, market: Market, code: str) -> None:
    quota = quota_of(type_, market)
    assert quota is not None
    assert quota[0] == code


@pytest.mark.parametrize(
    "type_", ["p6-b200.48xlarge", "hpc7a.96xlarge", "u7i-12tb.224xlarge", "u-6tb1.metal", "mac2.metal"]
)
def test_a_family_without_a_known_quota_counts_against_none(type_: str) -> None:
    assert quota_of(type_, Market.SPOT) is None


def test_a_type_whose_quota_is_not_known_is_a_warning_that_says_so() -> None:
    of = config(CONFIG.replace("[g5.xlarge, g4dn.xlarge]", "[p6-b200.48xlarge]"))
    types = {**TYPES, "p6-b200.48xlarge": {"VCpuInfo": {"DefaultVCpus": 192}}}
    errors, warnings = quota_findings(of, types, allowed(64))
    assert errors == []
    assert len(warnings) == 1
    assert "p6-b200.48xlarge (spot) is not known here, so it was not checked" in warnings[0]


def allowed(vcpus: float) -> ScriptedAccount:
    return ScriptedAccount(get_service_quota=[{"Quota": {"Value": vcpus}}])


def test_enough_is_no_finding() -> None:
    assert quota_findings(config(), TYPES, allowed(64)) == ([], [])


def test_less_than_the_maxima_is_a_warning_with_both_numbers() -> None:
    errors, warnings = quota_findings(config(), TYPES, allowed(48))
    assert errors == []
    assert [("48 vCPUs" in warning, "need 64" in warning) for warning in warnings] == [(True, True)]


def test_less_than_one_instance_is_an_error() -> None:
    errors, _ = quota_findings(config(), TYPES, allowed(0))
    assert len(errors) == 2
    assert all("not one instance may start" in error for error in errors)


def test_a_quota_that_may_not_be_read_is_a_warning() -> None:
    account = ScriptedAccount(get_service_quota=[CloudRefused("You may not.", "AccessDenied")])
    errors, warnings = quota_findings(config(), TYPES, account)
    assert (errors, len(warnings)) == ([], 2)
