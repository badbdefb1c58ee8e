"""Applying and deleting a stack when CloudFormation is not as one would like it: busy, half-made, failing."""

from __future__ import annotations

from typing import Any

import pytest

from scaler_plugin.bootstrapping.deployment import Deployment
from scaler_plugin.errors import CloudRefused

from .scripted_account import ScriptedAccount, event, no_stack, stack

TEMPLATE = {"Resources": {"R": {"Type": "AWS::IAM::Role"}}}


class Told:
    def __init__(self, account: ScriptedAccount) -> None:
        self.lines: list[str] = []
        self.deployment = Deployment(account, "s", self.lines.append, lambda _seconds: None)


def test_a_new_stack_is_followed_to_its_end_each_event_shown_once() -> None:
    account = ScriptedAccount(
        describe_stacks=[no_stack(), stack("CREATE_IN_PROGRESS"), stack("CREATE_COMPLETE")],
        describe_stack_events=[
            {},
            {"StackEvents": [event(1, "R", "CREATE_IN_PROGRESS")]},
            {"StackEvents": [event(2, "R", "CREATE_COMPLETE"), event(1, "R", "CREATE_IN_PROGRESS")]},
        ],
    )
    told = Told(account)
    assert told.deployment.apply(TEMPLATE, {"k": "v"})
    assert [line.split() for line in told.lines] == [["R", "CREATE_IN_PROGRESS"], ["R", "CREATE_COMPLETE"]]
    assert account.made("create_stack")[0]["Capabilities"] == ["CAPABILITY_IAM"]


def test_a_failure_names_the_resource_and_the_reason_of_aws() -> None:
    account = ScriptedAccount(
        describe_stacks=[no_stack(), stack("ROLLBACK_COMPLETE")],
        describe_stack_events=[
            {},
            {
                "StackEvents": [
                    event(3, "P", "CREATE_FAILED", "Resource creation cancelled"),
                    event(2, "R", "CREATE_FAILED", "You may not iam:CreateRole"),
                ]
            },
        ],
    )
    with pytest.raises(CloudRefused, match=r"R \(AWS::IAM::Role\): You may not iam:CreateRole") as refused:
        Told(account).deployment.apply(TEMPLATE, {})
    assert "cancelled" not in str(refused.value), "what was cancelled is no cause"


def test_a_failure_whose_events_may_not_be_read_says_that_and_not_that_there_is_no_reason() -> None:
    denied = CloudRefused(
        "CloudFormation refused DescribeStackEvents for stack s: No right (AccessDenied).", "AccessDenied"
    )
    account = ScriptedAccount(
        describe_stacks=[no_stack(), stack("ROLLBACK_COMPLETE")], describe_stack_events=[no_stack(), denied]
    )
    with pytest.raises(CloudRefused, match=r"events, which could not be read: .*DescribeStackEvents") as refused:
        Told(account).deployment.apply(TEMPLATE, {})
    assert "gave no reason" not in str(refused.value)


def test_a_failure_without_any_event_has_no_reason() -> None:
    account = ScriptedAccount(
        describe_stacks=[no_stack(), stack("ROLLBACK_COMPLETE")], describe_stack_events=[no_stack()]
    )
    with pytest.raises(CloudRefused, match="gave no reason"):
        Told(account).deployment.apply(TEMPLATE, {})


def test_a_stack_that_never_came_to_be_is_removed_and_made_anew() -> None:
    account = ScriptedAccount(
        describe_stacks=[
            stack("ROLLBACK_COMPLETE"),  # found
            stack("ROLLBACK_COMPLETE"),  # before it is deleted
            no_stack(),  # deleted
            stack("CREATE_COMPLETE"),
        ]
    )
    assert Told(account).deployment.apply(TEMPLATE, {})
    assert len(account.made("delete_stack")) == 1
    assert len(account.made("create_stack")) == 1


def test_an_operation_under_way_is_waited_for() -> None:
    busy = stack("UPDATE_IN_PROGRESS")
    account = ScriptedAccount(
        describe_stacks=[busy, busy, stack("UPDATE_COMPLETE")],
        get_template=[{"TemplateBody": {"Resources": {}}}],
    )
    told = Told(account)
    assert told.deployment.apply(TEMPLATE, {})
    assert told.lines == ["The stack s is UPDATE_IN_PROGRESS; waiting for that to end."]
    assert len(account.made("update_stack")) == 1


def test_the_same_template_again_asks_for_no_update() -> None:
    account = ScriptedAccount(describe_stacks=[stack("UPDATE_COMPLETE")], get_template=[{"TemplateBody": TEMPLATE}])
    assert not Told(account).deployment.apply(TEMPLATE, {})
    assert account.made("update_stack") == []


def test_a_stack_that_cannot_be_deleted_says_why() -> None:
    account = ScriptedAccount(
        describe_stacks=[stack("CREATE_COMPLETE"), stack("DELETE_FAILED")],
        describe_stack_events=[{}, {"StackEvents": [event(1, "G", "DELETE_FAILED", "sg-1 has a dependent object")]}],
    )
    with pytest.raises(CloudRefused, match="sg-1 has a dependent object"):
        Told(account).deployment.delete()


def test_a_deletion_that_did_not_finish_is_said_and_nothing_counts_as_deployed() -> None:
    account = ScriptedAccount(describe_stacks=[stack("DELETE_FAILED")], get_template=[{"TemplateBody": TEMPLATE}])
    deployment = Told(account).deployment
    assert "A deletion of the stack s did not finish (DELETE_FAILED). `apply` finishes it" in deployment.hindrance()
    assert deployment.deployed_template() == {}


def test_apply_finishes_a_deletion_that_did_not_and_makes_the_stack_anew() -> None:
    account = ScriptedAccount(
        describe_stacks=[
            stack("DELETE_FAILED"),  # found
            stack("DELETE_FAILED"),  # before it is deleted
            no_stack(),  # deleted
            stack("CREATE_COMPLETE"),
        ]
    )
    told = Told(account)
    assert told.deployment.apply(TEMPLATE, {})
    assert told.lines == ["The stack s was deleted in part only (DELETE_FAILED); it is removed first."]
    assert [name for name, _ in account.calls if name in ("delete_stack", "create_stack", "update_stack")] == [
        "delete_stack",
        "create_stack",
    ]


def test_a_rollback_that_failed_names_the_call_that_continues_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedAccount, "region", "eu-central-1")
    account = ScriptedAccount(describe_stacks=[stack("UPDATE_ROLLBACK_FAILED")])
    how = r"aws cloudformation continue-update-rollback --region eu-central-1 --stack-name s"
    with pytest.raises(CloudRefused, match=how):
        Told(account).deployment.apply(TEMPLATE, {})
    assert account.made("update_stack") == []
    assert how in Told(account).deployment.hindrance()


@pytest.mark.parametrize(
    ("found", "action", "refusal"),
    [
        (no_stack(), "create_stack", CloudRefused("Stack [s] already exists.", "AlreadyExistsException")),
        (
            stack("UPDATE_COMPLETE"),
            "update_stack",
            CloudRefused("Stack:arn:s is in UPDATE_IN_PROGRESS state and can not be updated.", "ValidationError"),
        ),
    ],
)
def test_a_change_that_somebody_else_began_a_moment_before_is_waited_for(
    found: Any, action: str, refusal: CloudRefused
) -> None:
    looks = [found] if action == "create_stack" else [found, found]
    account = ScriptedAccount(
        describe_stacks=[*looks, stack("UPDATE_IN_PROGRESS"), stack("UPDATE_COMPLETE")],
        get_template=[{"TemplateBody": {"Resources": {}}}, {"TemplateBody": TEMPLATE}],
        **{action: [refusal]},
    )
    if action == "create_stack":
        account.answers["get_template"].pop(0)
    told = Told(account)
    assert not told.deployment.apply(TEMPLATE, {}), "the other's template is the same"
    assert told.lines == [
        "Somebody else changes the stack s at this moment; once more after that.",
        "The stack s is UPDATE_IN_PROGRESS; waiting for that to end.",
    ]


def test_one_that_somebody_else_changes_for_ever_is_given_up_with_a_sentence() -> None:
    busy = CloudRefused("Stack:arn:s is in UPDATE_IN_PROGRESS state and can not be updated.", "ValidationError")
    account = ScriptedAccount(
        describe_stacks=[stack("UPDATE_COMPLETE")],
        get_template=[{"TemplateBody": {"Resources": {}}}],
        update_stack=[busy],
    )
    with pytest.raises(CloudRefused, match="Somebody else changes the stack s at the same time"):
        Told(account).deployment.apply(TEMPLATE, {})
