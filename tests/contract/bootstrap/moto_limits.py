"""What moto's CloudFormation cannot do, put aside on purpose and in one place.

It knows no ``AWS::Scheduler::Schedule``: it would pass it over with a warning. So the tests take it out of the template and make
the same schedule through the Scheduler's own API, with the template's own properties.
"""

from __future__ import annotations

import copy
from typing import Any

UNKNOWN_TO_MOTO = "AWS::Scheduler::Schedule"


def without_schedule(template: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The template without its one schedule, and the schedule's properties."""
    rest = copy.deepcopy(template)
    names = [name for name, resource in rest["Resources"].items() if resource["Type"] == UNKNOWN_TO_MOTO]
    assert names == ["ProbeSchedule"]
    schedule = rest["Resources"].pop("ProbeSchedule")
    return rest, schedule["Properties"]


def make_schedule(scheduler: Any, properties: dict[str, Any], ids: dict[str, str]) -> str:
    """Create the schedule; the result is its target's input."""
    target = properties["Target"]
    text: str = target["Input"]["Fn::Sub"].replace("${ProbeTemplate}", ids["ProbeTemplate"])
    scheduler.create_schedule(
        Name="probe",
        ScheduleExpression=properties["ScheduleExpression"],
        FlexibleTimeWindow=properties["FlexibleTimeWindow"],
        Target={
            "Arn": target["Arn"]["Fn::Sub"].replace("${AWS::Partition}", "aws"),
            "RoleArn": ids["ProbeRoleArn"],
            "Input": text,
            "RetryPolicy": target["RetryPolicy"],
        },
    )
    made: str = scheduler.get_schedule(Name="probe")["Target"]["Input"]
    return made
