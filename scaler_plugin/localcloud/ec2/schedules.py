"""EventBridge Scheduler as far as the probe needs it: ``AWS::Scheduler::Schedule`` in a stack, and its executions.

moto keeps schedules but knows none in a template and never executes any. What this guarantees: a schedule with a rate and EC2's
RunInstances as its target is executed once per period, the first time one period after it came into being, each time under an
execution id of its own. What it does not: other targets, cron expressions, time windows, retries, the schedule's role. After a
restart of the double the periods begin anew.

Source: "Using universal targets with EventBridge Scheduler" and "Schedule types" in the EventBridge Scheduler user guide.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from moto.core.common_models import CloudFormationModel
from moto.scheduler.models import scheduler_backends

log = structlog.get_logger(__name__)

EXECUTION_ID = "<aws.scheduler.execution-id>"
RUN_INSTANCES = ":aws-sdk:ec2:runInstances"

LOOK_S = 0.2

_RATE = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")
_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}


def period_s(expression: str) -> float | None:
    """Seconds between two executions; ``None`` for an expression that is no rate."""
    found = _RATE.fullmatch(expression)
    return int(found[1]) * _SECONDS[found[2]] if found else None


class StackSchedule(CloudFormationModel):
    """How moto's CloudFormation makes, changes and deletes a schedule."""

    def __init__(self, name: str, arn: str) -> None:
        self.name = name
        self.arn = arn

    @property
    def physical_resource_id(self) -> str:
        return self.name

    @staticmethod
    def cloudformation_name_type() -> str:
        return "Name"

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Scheduler::Schedule"

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return attr == "Arn"

    def get_cfn_attribute(self, attribute: str) -> str:
        """The one attribute that a template may ask for."""
        if attribute != "Arn":
            raise ValueError(f"A schedule has no attribute {attribute} here.")
        return self.arn

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **_: Any
    ) -> StackSchedule:
        backend = scheduler_backends[account_id][region_name]
        made = backend.create_schedule(
            name=resource_name, action_after_completion=None, **_settings(cloudformation_json["Properties"])
        )
        return cls(made.name, made.arn)

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: StackSchedule,
        new_resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
    ) -> StackSchedule:
        backend = scheduler_backends[account_id][region_name]
        backend.update_schedule(name=original_resource.name, **_settings(cloudformation_json["Properties"]))
        return original_resource

    @classmethod
    def delete_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str
    ) -> None:
        scheduler_backends[account_id][region_name].delete_schedule(None, resource_name)


def _settings(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": properties.get("Description"),
        "end_date": properties.get("EndDate"),
        "flexible_time_window": properties["FlexibleTimeWindow"],
        "group_name": properties.get("GroupName"),
        "kms_key_arn": properties.get("KmsKeyArn"),
        "schedule_expression": properties["ScheduleExpression"],
        "schedule_expression_timezone": properties.get("ScheduleExpressionTimezone"),
        "start_date": properties.get("StartDate"),
        "state": properties.get("State"),
        "target": properties["Target"],
    }


class ScheduleRunner:
    """Executes the account's schedules from a thread of its own, from :meth:`start` to :meth:`stop`."""

    def __init__(
        self, account_id: str, run_instances: Callable[[str, dict[str, Any]], object], clock: Callable[[], float]
    ) -> None:
        """``run_instances`` takes the region and the call's parameters; what it raises is logged and not repeated."""
        self._account_id = account_id
        self._run_instances = run_instances
        self._clock = clock
        self._last: dict[str, float] = {}
        self._executions = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schedules", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> None:
        """Execute what is due now."""
        now = self._clock()
        found: set[str] = set()
        for region, backend in list(scheduler_backends[self._account_id].items()):
            for group in list(backend.schedule_groups.values()):
                for schedule in list(group.schedules.values()):
                    period = period_s(schedule.schedule_expression)
                    if period is None or schedule.state != "ENABLED" or RUN_INSTANCES not in schedule.target["Arn"]:
                        continue
                    found.add(schedule.arn)
                    if now - self._last.setdefault(schedule.arn, now) >= period:
                        self._last[schedule.arn] = now
                        self._execute(region, schedule.target["Input"])
        for gone in self._last.keys() - found:
            del self._last[gone]

    def _execute(self, region: str, text: str) -> None:
        self._executions += 1
        # Never the same again, also not after a restart of the double with the same state.
        execution = f"{time.time_ns():x}-{self._executions:x}"
        try:
            self._run_instances(region, json.loads(text.replace(EXECUTION_ID, execution)))
        except Exception as error:
            log.warning("schedule_failed", region=region, error=str(error))

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            self.step()
