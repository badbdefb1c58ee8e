"""The local EventBridge Scheduler: when a schedule's call is made, and with what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from scaler_plugin.localcloud.ec2.schedules import ScheduleRunner, period_s

ACCOUNT = "123456789012"
INPUT = json.dumps({"MinCount": 1, "MaxCount": 1, "ClientToken": "<aws.scheduler.execution-id>"})


class Recorded:
    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refuse = False

    def run_instances(self, region: str, parameters: dict[str, Any]) -> None:
        self.calls.append((region, parameters))
        if self.refuse:
            raise RuntimeError("InsufficientInstanceCapacity")


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with mock_aws():
        yield Recorded()


def runner(recorded: Recorded) -> ScheduleRunner:
    return ScheduleRunner(ACCOUNT, recorded.run_instances, lambda: recorded.now)


def make(
    target: str = "arn:aws:scheduler:::aws-sdk:ec2:runInstances", rate: str = "rate(5 minutes)", **more: str
) -> None:
    boto3.client("scheduler", "eu-central-1").create_schedule(
        Name="probe",
        ScheduleExpression=rate,
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": target, "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/probe", "Input": INPUT},
        **more,
    )


def test_a_schedule_is_executed_once_a_period_each_time_under_a_new_execution_id(recorded: Recorded) -> None:
    make()
    schedules = runner(recorded)
    for second in range(0, 901, 50):
        recorded.now = 1000.0 + second
        schedules.step()
    tokens = {parameters["ClientToken"] for _, parameters in recorded.calls}
    assert [region for region, _ in recorded.calls] == ["eu-central-1"] * 3
    assert len(tokens) == 3
    assert not any("<" in token for token in tokens)


def test_a_refused_execution_is_followed_by_the_next(recorded: Recorded) -> None:
    make()
    recorded.refuse = True
    schedules = runner(recorded)
    for second in (0, 300, 301, 600):
        recorded.now = 1000.0 + second
        schedules.step()
    assert len(recorded.calls) == 2


@pytest.mark.parametrize(
    "given",
    [{"State": "DISABLED"}, {"rate": "cron(0 * * * ? *)"}, {"target": "arn:aws:scheduler:::aws-sdk:ec2:stopInstances"}],
)
def test_what_is_off_or_is_no_rate_or_no_launch_is_left_alone(recorded: Recorded, given: dict[str, str]) -> None:
    make(**given)
    schedules = runner(recorded)
    schedules.step()
    recorded.now += 10000.0
    schedules.step()
    assert recorded.calls == []


def test_a_deleted_schedule_is_not_executed_and_a_new_one_of_its_name_begins_anew(recorded: Recorded) -> None:
    make()
    schedules = runner(recorded)
    schedules.step()
    boto3.client("scheduler", "eu-central-1").delete_schedule(Name="probe")
    recorded.now += 299.0
    schedules.step()
    make()
    recorded.now += 1.0
    schedules.step()
    assert recorded.calls == []


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [
        ("rate(1 minute)", 60),
        ("rate(15 minutes)", 900),
        ("rate(2 hours)", 7200),
        ("rate(1 day)", 86400),
        ("at(2026-11-25T00:00:00)", None),
    ],
)
def test_periods(expression: str, seconds: float | None) -> None:
    assert period_s(expression) == seconds
