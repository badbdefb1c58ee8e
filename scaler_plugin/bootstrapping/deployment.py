"""The stack in CloudFormation: read it, bring it to a template, delete it, and follow what happens meanwhile.

Guarantees: applying the same template twice changes nothing the second time; an operation that is under way already is followed to
its end before another is begun; a stack whose creation had failed, or whose deletion, is removed and made anew. A failure names the
resources that failed with AWS's own reasons.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.bootstrapping.template import template_text
from scaler_plugin.errors import CloudError, CloudRefused, CloudUnavailable

#: Takes one line about what happens.
Progress: TypeAlias = Callable[[str], None]

#: Between two looks; CloudFormation takes a minute or two for such a stack.
LOOK_S = 3.0
#: An instance profile takes the longest, about two minutes; past this something hangs.
PATIENCE_S = 1800.0

#: States from which nothing but deletion leads anywhere: the stack was never complete.
_STILLBORN = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "REVIEW_IN_PROGRESS")
#: A deletion has begun, so resources may be gone, and CloudFormation takes nothing but the deletion again. The stack holds no data.
_HALF_DELETED = ("DELETE_FAILED", "DELETE_IN_PROGRESS")
#: How often a change that somebody else makes at the same moment is waited for.
TURNS = 3


class _SomebodyElse(Exception):
    """CloudFormation refused because the stack has changed since it was looked at."""


class Deployment:
    """``wait`` sleeps between two looks."""

    def __init__(
        self, account: Account, name: str, progress: Progress, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._account = account
        self._name = name
        self._progress = progress
        self._wait = wait
        self._events_unread = ""  # why the stack's events could not be read the last time

    def deployed_template(self) -> dict[str, Any]:
        """The template that is deployed; empty when there is no stack, or only a part of one that must go first."""
        stack = self._described()
        if stack is None or stack["StackStatus"] in (*_STILLBORN, *_HALF_DELETED):
            return {}
        answer = self._call("get_template", StackName=self._name, TemplateStage="Original")
        body = answer["TemplateBody"]
        parsed: dict[str, Any] = json.loads(body) if isinstance(body, str) else json.loads(json.dumps(body))
        return parsed

    def hindrance(self) -> str:
        """A sentence about a state that a change does not start from as usual; empty where all is well."""
        stack = self._described()
        status = stack["StackStatus"] if stack else ""
        if status in _HALF_DELETED:
            under_way = "is under way" if status.endswith("_IN_PROGRESS") else "did not finish"
            return (
                f"A deletion of the stack {self._name} {under_way} ({status}). `apply` finishes it and makes the stack anew; "
                "`destroy` only finishes it."
            )
        if status in _STILLBORN:
            return f"The stack {self._name} never came to be ({status}); `apply` removes it first."
        if status == "UPDATE_ROLLBACK_FAILED":
            return self._stuck()
        if status.endswith("_IN_PROGRESS"):
            return f"The stack {self._name} is {status}: somebody changes it now. `apply` waits for the end of that."
        return ""

    def _stuck(self) -> str:
        return (
            f"The stack {self._name} is UPDATE_ROLLBACK_FAILED: a change failed, and so did taking it back. No change is possible "
            "before that is done. Look at the stack's events for the reason, remove it, then call: aws cloudformation "
            f"continue-update-rollback --region {self._account.region} --stack-name {self._name}"
        )

    def outputs(self) -> dict[str, str]:
        stack = self._described() or {}
        return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}

    def resource_id(self, logical_id: str) -> str | None:
        """The id of a resource of the stack; ``None`` without the stack or the resource."""
        if self._described() is None:
            return None
        answer = self._account.found(
            "cloudformation", "describe_stack_resource", f"stack {self._name}",
            StackName=self._name, LogicalResourceId=logical_id,
        )  # fmt: skip
        return str(answer["StackResourceDetail"]["PhysicalResourceId"]) if answer else None

    def apply(self, template: dict[str, Any], cluster_tags: dict[str, str]) -> bool:
        """Bring the stack to this template; false if it was there already. Raises ``CloudError``."""
        for turn in range(1, TURNS + 1):
            try:
                return self._apply(template, cluster_tags)
            except _SomebodyElse as error:
                if turn == TURNS:
                    raise CloudRefused(
                        f"Somebody else changes the stack {self._name} at the same time, again and again. Call this again when "
                        f"they have finished. CloudFormation said: {error}"
                    ) from error
                self._progress(f"Somebody else changes the stack {self._name} at this moment; once more after that.")
        return False

    def _apply(self, template: dict[str, Any], cluster_tags: dict[str, str]) -> bool:
        stack = self._settled()
        if stack is not None and stack["StackStatus"] == "UPDATE_ROLLBACK_FAILED":
            raise CloudRefused(self._stuck())
        if stack is not None and stack["StackStatus"] in (*_STILLBORN, *_HALF_DELETED):
            never = stack["StackStatus"] in _STILLBORN
            what = "never came to be" if never else "was deleted in part only"
            self._progress(f"The stack {self._name} {what} ({stack['StackStatus']}); it is removed first.")
            self.delete()
            stack = None
        seen = self._event_ids()
        parameters: dict[str, Any] = {
            "StackName": self._name,
            "TemplateBody": template_text(template),
            "Capabilities": ["CAPABILITY_IAM"],
            "Tags": [{"Key": key, "Value": value} for key, value in cluster_tags.items()],
        }
        if stack is None:
            self._begin("create_stack", **parameters, OnFailure="ROLLBACK")
            self._follow(seen, "CREATE_COMPLETE")
            return True
        if self.deployed_template() == template and not stack["StackStatus"].endswith("_FAILED"):
            return False
        try:
            self._begin("update_stack", **parameters)
        except CloudRefused as refused:
            if "No updates are to be performed" in str(refused):
                return False
            raise
        self._follow(seen, "UPDATE_COMPLETE")
        return True

    def _begin(self, action: str, **parameters: Any) -> None:
        """Raises ``_SomebodyElse`` when another's operation was quicker than this one."""
        try:
            self._call(action, **parameters)
        except CloudRefused as refused:
            if refused.code == "AlreadyExistsException" or "_IN_PROGRESS state" in str(refused):
                raise _SomebodyElse(str(refused)) from refused
            raise

    def delete(self) -> bool:
        """Delete the stack; false if there is none. Raises ``CloudError``."""
        stack = self._settled()
        if stack is None:
            return False
        seen = self._event_ids()
        # By its id: the name is unknown the moment it is gone.
        self._call("delete_stack", StackName=stack["StackId"])
        self._follow(seen, "DELETE_COMPLETE", stack["StackId"])
        return True

    def _follow(self, seen: set[str], wanted: str, stack_id: str | None = None) -> None:
        """Report events until the operation has ended. Raises ``CloudRefused`` if it ended otherwise than wanted."""
        deadline = time.monotonic() + PATIENCE_S
        failures: list[str] = []
        while True:
            stack = self._described(stack_id)
            failures += self._report(seen, stack_id)
            status = stack["StackStatus"] if stack else "DELETE_COMPLETE"
            if not status.endswith("_IN_PROGRESS"):
                break
            if time.monotonic() > deadline:
                raise CloudUnavailable(
                    f"The stack {self._name} is {status} for {PATIENCE_S / 60:.0f} minutes. CloudFormation goes on with it; look "
                    "at it in the console, then call this again."
                )
            self._wait(LOOK_S)
        if status != wanted:
            unread = f"Its reason stands in the stack's events, which could not be read: {self._events_unread}"
            untold = unread if self._events_unread else "CloudFormation gave no reason."
            reasons = "\n".join(f"  - {failure}" for failure in failures[:5] or [untold])
            raise CloudRefused(
                f"The stack {self._name} ended as {status} and not as {wanted}:\n{reasons}\nCorrect that and call this again."
            )

    def _report(self, seen: set[str], stack_id: str | None) -> list[str]:
        """Show the events that are new, oldest first; hand back those that tell of a failure."""
        failures = []
        for event in reversed(self._events(stack_id)):
            if event["EventId"] in seen:
                continue
            seen.add(event["EventId"])
            status, name = event.get("ResourceStatus", ""), event.get("LogicalResourceId", "")
            reason = event.get("ResourceStatusReason", "")
            failed = status.endswith("_FAILED")
            self._progress(f"  {name:<24} {status}" + (f": {reason}" if failed and reason else ""))
            if failed and "cancelled" not in reason.lower():
                failures.append(f"{name} ({event.get('ResourceType', '')}): {reason or 'no reason given'}")
        return failures

    def _settled(self) -> dict[str, Any] | None:
        """The stack once nothing is under way in it."""
        deadline = time.monotonic() + PATIENCE_S
        told = False
        while (stack := self._described()) is not None and stack["StackStatus"].endswith("_IN_PROGRESS"):
            if stack["StackStatus"] in _STILLBORN:
                break
            if not told:
                self._progress(f"The stack {self._name} is {stack['StackStatus']}; waiting for that to end.")
                told = True
            if time.monotonic() > deadline:
                raise CloudUnavailable(
                    f"The stack {self._name} stays {stack['StackStatus']}; look at it in the console."
                )
            self._wait(LOOK_S)
        return stack

    def _described(self, stack_id: str | None = None) -> dict[str, Any] | None:
        answer = self._account.found(
            "cloudformation", "describe_stacks", f"stack {self._name}", StackName=stack_id or self._name
        )
        stacks = answer["Stacks"] if answer else []
        return None if not stacks or stacks[0]["StackStatus"] == "DELETE_COMPLETE" else dict(stacks[0])

    def _events(self, stack_id: str | None) -> list[dict[str, Any]]:
        self._events_unread = ""
        try:
            return self._account.pages(
                "cloudformation", "describe_stack_events", "StackEvents", f"stack {self._name}",
                StackName=stack_id or self._name,
            )  # fmt: skip
        except CloudError as error:
            # Of a stack that is not there yet, or no more, its status says so. Nor does an operation end for the want of events.
            if "does not exist" not in str(error):
                self._events_unread = str(error)
            return []

    def _event_ids(self) -> set[str]:
        return {event["EventId"] for event in self._events(None)}

    def _call(self, action: str, **parameters: Any) -> dict[str, Any]:
        return self._account.call("cloudformation", action, f"stack {self._name}", **parameters)
