"""Images by name or by SSM parameter: which id they stand for, and that what is published is what the stack allows."""

from __future__ import annotations

from typing import Any

import pytest

from scaler_plugin.bootstrapping.ground import Ground
from scaler_plugin.bootstrapping.images import find_image_id, with_image_ids
from scaler_plugin.bootstrapping.template import render_template
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.errors import CloudRefused, ConfigError

from .made_up import changed, config, ground, probe_user_data
from .scripted_account import ScriptedAccount

PARAMETER = "resolve:ssm:/golden/scaler-cpu"
NAME = "name:scaler-sidecar-*-cpu-*"


def parameter(value: str) -> dict[str, Any]:
    return {"Parameter": {"Name": "/golden/scaler-cpu", "Value": value}}


def image(id_: str, created: str, **more: str) -> dict[str, Any]:
    return {"ImageId": id_, "CreationDate": created, **more}


def deployed(of: ScalerConfig, id_: str) -> dict[str, Any]:
    """The template of the stack, made when the last pool's image was this one."""
    pools = dict(ground(of).pools)
    last = of.pools[-1].name
    pools[last] = type(pools[last])(**{**vars(pools[last]), "image_id": id_})
    made: dict[str, Any] = render_template(of, Ground("vpc-1", pools), probe_user_data(of))
    return made


def test_an_id_is_itself_and_nobody_is_asked() -> None:
    account = ScriptedAccount()
    assert find_image_id("ami-0a1b2c3d", account) == "ami-0a1b2c3d"
    assert account.calls == []


def test_a_parameter_stands_for_the_id_in_it() -> None:
    account = ScriptedAccount(get_parameter=[parameter("ami-0123")])
    assert find_image_id(PARAMETER, account) == "ami-0123"
    assert account.made("get_parameter") == [{"Name": "/golden/scaler-cpu"}]


def test_a_parameter_may_have_a_version_or_be_another_accounts() -> None:
    account = ScriptedAccount(get_parameter=[parameter("ami-0123")])
    shared = "arn:aws:ssm:eu-central-1:111122223333:parameter/golden"
    for name in ("/golden:3", shared):
        assert find_image_id(changed(ami=f"resolve:ssm:{name}").pools[-1].ami, account) == "ami-0123"
    assert account.made("get_parameter") == [{"Name": "/golden:3"}, {"Name": shared}]


@pytest.mark.parametrize(
    "answer", [CloudRefused("no", "ParameterNotFound"), parameter("AQICAHh…ciphertext"), parameter("subnet-1")]
)
def test_a_parameter_that_is_not_there_or_holds_no_image_is_said_so(answer: Any) -> None:
    with pytest.raises(ConfigError, match=r"resolve:ssm:/golden/scaler-cpu: .*the parameter .* AMI id"):
        find_image_id(PARAMETER, ScriptedAccount(get_parameter=[answer]))


def test_a_name_stands_for_the_newest_image_of_ones_own_that_is_not_deprecated() -> None:
    images = [
        image("ami-1old", "2026-10-01T00:00:00.000Z"),
        image("ami-2new", "2026-11-01T00:00:00.000Z"),
        image("ami-3bad", "2026-11-20T00:00:00.000Z", DeprecationTime="2026-11-21T00:00:00.000Z"),
        image("ami-0mid", "2026-10-15T00:00:00.000Z", DeprecationTime="9999-01-01T00:00:00.000Z"),
    ]
    account = ScriptedAccount(describe_images=[{"Images": images}])
    assert find_image_id(NAME, account) == "ami-2new"
    (asked,) = account.made("describe_images")
    assert asked["Owners"] == ["self"]
    assert {"Name": "name", "Values": ["scaler-sidecar-*-cpu-*"]} in asked["Filters"]
    assert {"Name": "state", "Values": ["available"]} in asked["Filters"]


def test_another_accounts_image_is_taken_only_when_that_account_is_named() -> None:
    account = ScriptedAccount(describe_images=[{"Images": [image("ami-1", "2026-10-01T00:00:00.000Z")]}])
    assert find_image_id("name:111122223333:golden-*", account) == "ami-1"
    (asked,) = account.made("describe_images")
    assert asked["Owners"] == ["111122223333"]
    assert {"Name": "name", "Values": ["golden-*"]} in asked["Filters"]


def test_a_name_that_no_image_has_is_said_so() -> None:
    with pytest.raises(ConfigError, match=r"name:scaler-sidecar-\*-cpu-\*: this account has no available image"):
        find_image_id(NAME, ScriptedAccount(describe_images=[{"Images": []}]))


def test_a_configuration_of_ids_needs_neither_aws_nor_the_stack() -> None:
    of = config()

    def no_stack() -> dict[str, Any]:
        raise AssertionError("the stack was asked")

    assert with_image_ids(of, ScriptedAccount(), no_stack) is of


def test_with_a_stack_the_image_is_the_one_that_apply_allowed_though_a_newer_one_is_there() -> None:
    of = changed(ami=NAME)
    account = ScriptedAccount(describe_images=[{"Images": [image("ami-9newer", "2027-01-01T00:00:00.000Z")]}])
    found = with_image_ids(of, account, lambda: deployed(of, "ami-0allowed"))
    assert [pool.ami for pool in found.pools] == [of.pools[0].ami, "ami-0allowed"]
    assert account.calls == []


@pytest.mark.parametrize("template", [{}, deployed(changed(ami=PARAMETER), "ami-0other")], ids=["none", "another's"])
def test_a_name_that_the_stack_has_not_looked_up_is_refused_with_the_command_that_does(template: Any) -> None:
    of = changed(ami=NAME)
    with pytest.raises(ConfigError, match=r"pool cpu.*name:scaler-sidecar-.*bootstrap apply"):
        with_image_ids(of, ScriptedAccount(), lambda: template)


def test_without_a_stack_names_are_looked_up_at_once() -> None:
    of = changed(ami=PARAMETER)
    of = of.model_copy(update={"aws": of.aws.model_copy(update={"stack": None})})
    found = with_image_ids(of, ScriptedAccount(get_parameter=[parameter("ami-0123")]), dict)
    assert found.pools[-1].ami == "ami-0123"
    assert of.pools[-1].ami == PARAMETER


def test_the_stacks_rights_and_templates_hold_the_id_and_the_pools_template_says_of_which_name() -> None:
    of = changed(ami=NAME)
    template = deployed(of, "ami-0allowed")
    assert template["Resources"]["PoolCpu"]["Metadata"] == {"Image": NAME}
    assert template["Resources"]["PoolCpu"]["Properties"]["LaunchTemplateData"]["ImageId"] == "ami-0allowed"
    assert template["Resources"]["ProbeTemplate"]["Properties"]["LaunchTemplateData"]["ImageId"] == "ami-0allowed"
    assert "Metadata" not in template["Resources"]["PoolGpuSpot"]
    policies = [r["Properties"]["PolicyDocument"] for r in template["Resources"].values() if "Policy" in r["Type"]]
    assert "image/ami-0allowed" in str(policies)
    assert NAME not in str(policies)
