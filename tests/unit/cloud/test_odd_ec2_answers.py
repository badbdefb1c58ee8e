"""Answers that EC2 should never give: a proxy's, a stand-in's, or those of a newer API."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from scaler_plugin.cloud.ec2 import LAUNCH_ATTEMPTS, READ_ATTEMPTS, Ec2Fleet
from scaler_plugin.core.model import InstanceState, LaunchId, LaunchRequest, PoolName
from scaler_plugin.errors import CloudUnavailable

GOOD = {"InstanceId": "i-1", "State": {"Name": "pending"}, "LaunchTime": datetime(2026, 11, 25, tzinfo=timezone.utc)}
REQUEST = LaunchRequest("c", PoolName("cpu"), LaunchId("l"), 1, "c5.large", "ami-1")


class OddClient:
    """Answers everything alike."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def run_instances(self, **_: Any) -> Any:
        return self.answer

    def get_paginator(self, _: str) -> OddClient:
        return self

    def paginate(self, **_: Any) -> Any:
        return [self.answer]


def fleet(answer: Any) -> Ec2Fleet:
    odd = Ec2Fleet("c")
    for attempts in (LAUNCH_ATTEMPTS, READ_ATTEMPTS):
        odd._clients[attempts] = OddClient(answer)  # type: ignore[assignment]
    return odd


def listing(*instances: Any) -> Any:
    return {"Reservations": [{"Instances": list(instances)}]}


@pytest.mark.parametrize("answer", [{}, None, [], {"Instances": [{}]}, {"Instances": None}, {"Instances": [None]}])
def test_a_launch_whose_answer_is_not_understood_may_have_had_its_effect(answer: Any) -> None:
    with pytest.raises(CloudUnavailable, match="RunInstances for pool cpu"):
        fleet(answer).run_instances(REQUEST, "token")


@pytest.mark.parametrize(
    "answer", [{}, None, {"Reservations": [{}]}, listing(None), listing({**GOOD, "LaunchTime": None})]
)
def test_a_listing_that_is_not_understood_is_none(answer: Any) -> None:
    with pytest.raises(CloudUnavailable, match="DescribeInstances"):
        fleet(answer).instances()


def test_an_instance_without_an_id_spoils_no_listing() -> None:
    assert [i.instance_id for i in fleet(listing({"State": {"Name": "running"}}, GOOD)).instances()] == ["i-1"]


@pytest.mark.parametrize("state", [{"Name": "hibernated"}, {}])
def test_an_instance_in_an_unknown_state_counts_as_running(state: Any) -> None:
    (instance,) = fleet(listing({**GOOD, "State": state})).instances()
    assert instance.state is InstanceState.RUNNING
