"""The account's own role for spot: made once, by a person's rights, and never in the way of those who have it."""

from __future__ import annotations

import pytest

from scaler_plugin.bootstrapping.spot_role import ensure_spot_role, plan_of_spot_role
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.errors import CloudRefused

from .made_up import CONFIG, config
from .scripted_account import ScriptedAccount

ABSENT = CloudRefused("The role AWSServiceRoleForEC2Spot cannot be found (NoSuchEntity).", "NoSuchEntity")
DENIED = CloudRefused("IAM refused GetRole: not authorized (AccessDenied).", "AccessDenied")
TAKEN = CloudRefused(
    "IAM refused: Service role name AWSServiceRoleForEC2Spot has been taken in this account (InvalidInput).",
    "InvalidInput",
)
REFUSED = CloudRefused("IAM refused CreateServiceLinkedRole: not authorized (AccessDenied).", "AccessDenied")


def test_a_role_that_is_there_is_left_alone_and_not_planned() -> None:
    account = ScriptedAccount(get_role=[{"Role": {}}])
    said: list[str] = []
    ensure_spot_role(config(), account, said.append)
    assert plan_of_spot_role(config(), account) is None
    assert (said, account.made("create_service_linked_role")) == ([], [])


def test_one_that_is_absent_is_planned_and_then_made() -> None:
    account = ScriptedAccount(get_role=[ABSENT])
    planned = plan_of_spot_role(config(), account)
    assert planned is not None
    assert "+ AWSServiceRoleForEC2Spot" in planned
    assert account.made("create_service_linked_role") == [], "planned and made at once"
    said: list[str] = []
    ensure_spot_role(config(), account, said.append)
    assert account.made("create_service_linked_role") == [{"AWSServiceName": "spot.amazonaws.com"}]
    assert "AWSServiceRoleForEC2Spot" in said[0]


def test_one_that_somebody_else_makes_meanwhile_is_as_good() -> None:
    account = ScriptedAccount(get_role=[ABSENT], create_service_linked_role=[TAKEN])
    ensure_spot_role(config(), account, lambda _: None)


def test_one_that_may_not_be_made_is_an_error() -> None:
    account = ScriptedAccount(get_role=[ABSENT], create_service_linked_role=[REFUSED])
    with pytest.raises(CloudRefused, match="not authorized"):
        ensure_spot_role(config(), account, lambda _: None)


def test_a_plan_by_somebody_who_may_not_look_says_so() -> None:
    planned = plan_of_spot_role(config(), ScriptedAccount(get_role=[DENIED]))
    assert planned is not None
    assert "is not known: IAM refused GetRole" in planned


def test_without_a_spot_pool_iam_is_not_asked() -> None:
    of = parse_yaml(CONFIG.replace("market: spot", "market: on-demand"), "test")
    account = ScriptedAccount(get_role=[ABSENT])
    ensure_spot_role(of, account, lambda _: None)
    assert plan_of_spot_role(of, account) is None
    assert account.calls == []
