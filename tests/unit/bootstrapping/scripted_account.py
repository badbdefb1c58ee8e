"""An account that answers as told: by service and action, each answer in turn, the last one for ever."""

from __future__ import annotations

from typing import Any

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.config.schema import AwsConfig
from scaler_plugin.errors import CloudRefused


class ScriptedAccount(Account):
    """``answers`` maps an action to its answers; an exception among them is raised. ``calls`` is what was asked."""

    def __init__(self, **answers: list[Any]) -> None:
        super().__init__(AwsConfig(region="eu-central-1"))
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def call(self, service: str, action: str, about: str, **parameters: Any) -> dict[str, Any]:
        self.calls.append((action, parameters))
        script = self.answers.get(action, [{}])
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Exception):
            raise answer
        found: dict[str, Any] = answer
        return found

    def pages(self, service: str, action: str, key: str, about: str, **parameters: Any) -> list[Any]:
        return list(self.call(service, action, about, **parameters).get(key, []))

    def made(self, action: str) -> list[dict[str, Any]]:
        return [parameters for name, parameters in self.calls if name == action]


def no_stack() -> CloudRefused:
    return CloudRefused("Stack with id s does not exist (ValidationError).", "ValidationError")


def stack(status: str) -> dict[str, Any]:
    return {"Stacks": [{"StackName": "s", "StackId": "arn:s", "StackStatus": status}]}


def event(number: int, name: str, status: str, reason: str = "") -> dict[str, Any]:
    return {
        "EventId": str(number),
        "LogicalResourceId": name,
        "ResourceType": "AWS::IAM::Role",
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
    }
