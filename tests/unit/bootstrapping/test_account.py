"""What AWS says to a command, as a sentence for the person who called it."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.config.schema import AwsConfig
from scaler_plugin.errors import CloudError


class Refusing:
    """A service that raises one error to every call."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def describe_stacks(self, **_parameters: Any) -> Any:
        raise self.error


class AccountOf(Account):
    def __init__(self, error: Exception) -> None:
        super().__init__(AwsConfig(region="eu-central-1"))
        self.error = error

    def _client(self, service: str) -> Any:
        return Refusing(self.error)


def answered(code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "Its words."}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "DescribeStacks",
    )


def sentence(error: Exception) -> str:
    with pytest.raises(CloudError) as raised:
        AccountOf(error).call("cloudformation", "describe_stacks", "stack s")
    return str(raised.value)


@pytest.mark.parametrize("code", ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation"])
def test_a_missing_right_of_a_person_names_the_page_that_lists_theirs_and_no_policy_of_nodes(code: str) -> None:
    assert sentence(answered(code, 403)) == (
        f"CloudFormation refused DescribeStacks for stack s: Its words ({code}). "
        'docs/bootstrap.md, "Who may do this", lists the rights.'
    )


@pytest.mark.parametrize(
    "error",
    [
        answered("Throttling", 400),
        answered("InternalFailure", 500),
        ConnectTimeoutError(endpoint_url="https://cloudformation.example"),
    ],
    ids=["throttled", "failed", "silent"],
)
def test_what_may_pass_is_to_be_called_again_because_a_command_tries_nothing_again(error: Exception) -> None:
    assert "Call this again" in sentence(error)
    assert "will be tried again" not in sentence(error)


def test_a_refusal_without_known_advice_ends_with_the_words_of_aws() -> None:
    assert sentence(answered("SomethingNew", 400)).endswith("Its words (SomethingNew).")
