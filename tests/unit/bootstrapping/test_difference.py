"""What ``plan`` shows: every resource that comes, goes or changes, and which setting."""

from __future__ import annotations

from scaler_plugin.bootstrapping.difference import ChangeKind, compare, describe

from .made_up import CONFIG, changed, config, template


def test_equal_templates_differ_in_nothing() -> None:
    assert compare(template(), template()) == ()


def test_without_a_stack_everything_is_added() -> None:
    changes = compare({}, template())
    assert {change.kind for change in changes} == {ChangeKind.ADD}
    assert len(changes) == len(template()["Resources"])


def test_a_changed_image_shows_old_and_new_wherever_it_counts() -> None:
    lines = describe(compare(template(), template(changed(ami="ami-00000000000000099"))))
    text = "\n".join(lines)
    assert "~ PoolCpu  AWS::EC2::LaunchTemplate" in lines[1] or "~ PoolCpu  AWS::EC2::LaunchTemplate" in text
    assert "LaunchTemplateData.ImageId: ami-0f1e2d3c4b5a69788 → ami-00000000000000099" in text
    assert "~ LaunchPolicy" in text, "leaders may launch the new image"


def test_a_pool_with_another_name_is_a_new_template_and_the_old_one_goes() -> None:
    kinds = {change.name: change.kind for change in compare(template(), template(changed(name="cpus")))}
    assert kinds["PoolCpus"] is ChangeKind.ADD
    assert kinds["PoolCpu"] is ChangeKind.REMOVE


def test_what_cloudformation_would_replace_is_marked() -> None:
    other = template()
    other["Resources"]["NodeSecurityGroup"]["Properties"]["VpcId"] = "vpc-other"
    (change,) = compare(template(), other)
    assert change.kind is ChangeKind.REPLACE
    assert change.details == ("VpcId: vpc-0a1b2c3d4e5f60718 → vpc-other",)


def test_of_user_data_only_the_lines_that_differ_are_shown() -> None:
    text = CONFIG.replace("10.0.0.5:2379", "10.0.0.6:2379").replace("  user: scaler", "  user: other")
    (change,) = compare(template(), template(config(text)))
    assert change.details == (
        "LaunchTemplateData.UserData:",
        "  -   - 10.0.0.5:2379",
        "  -   user: scaler",
        "  +   - 10.0.0.6:2379",
        "  +   user: other",
    )


def test_lines_that_begin_like_a_difference_are_lines_and_an_end_of_line_counts() -> None:
    def stack(text: object) -> dict[str, object]:
        return {"Resources": {"X": {"Type": "T", "Properties": {"P": text}}}}

    (change,) = compare(stack("--- a\n@@ b\n"), stack("+++ a\n@@ b"))
    assert change.details == ("P:", "  - --- a", "  + +++ a", "  - ")
    (change,) = compare(stack(None), stack("one\ntwo\n"))
    assert change.details == ("P: nothing → one … (2 lines)",)
