"""The original's configuration becomes ours: each key is accounted for, and no secret comes along."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler_plugin.config.load import parse_yaml
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.secret_ref import SecretSource
from scaler_plugin.errors import ConfigError
from scaler_plugin.importing.report import Outcome
from scaler_plugin.importing.source import Source, read_source
from scaler_plugin.importing.translate import Imported, Wish, cluster_of, translate
from scaler_plugin.wizard.secret_places import SecretPlaces

FILE = Path(__file__).with_name("files") / "aws_autoscaler.yaml"


def imported(path: Path = FILE, wish: Wish | None = None) -> Imported:
    source = read_source(path)
    wish = wish or Wish(ami="ami-0a1b2c3d4e5f67890")
    return translate(source, wish, SecretPlaces(SecretSource.SSM, cluster_of(source, wish)))


def one_resource(folder: Path, resource: Any) -> Path:
    """A file whose only resource is called ``r``."""
    file = folder / "a.yaml"
    configurations = {"resource_configurations": {"r": resource}, "queues": {"default": [["r", 1]]}}
    file.write_text(yaml.safe_dump({"hyper_params": {}, "configurations": configurations}))
    return file


def config(result: Imported) -> ScalerConfig:
    return parse_yaml(yaml.safe_dump(result.config))


def said(result: Imported, key: str) -> str:
    return " | ".join(f"{line.outcome.value}: {line.text}" for line in result.lines if line.key == key)


def leaves(data: Any, path: str = "") -> Iterator[str]:
    """The path of every value. A queue's entries and a list count as one."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path


def test_every_key_of_the_file_has_a_line() -> None:
    result = imported()
    told = {line.key for line in result.lines}
    for leaf in leaves(yaml.safe_load(FILE.read_text())):
        assert any(leaf == key or leaf.startswith(f"{key}.") for key in told), f"nothing is said about {leaf}"


def test_no_secret_of_the_file_is_in_the_configuration_or_the_report() -> None:
    result = imported()
    assert "CANARY" not in yaml.safe_dump(result.config)
    assert "CANARY" not in repr(result.lines)
    secret = {line.key for line in result.lines if line.outcome is Outcome.SECRET}
    assert secret == {
        "hyper_params.cloud_credentials_key", "hyper_params.cloud_credentials_secret", "hyper_params.git_pass",
        "configurations.extra_clearml_conf", "configurations.extra_vm_bash_script",
    }  # fmt: skip


def test_the_result_is_a_valid_configuration_that_means_the_same() -> None:
    result = config(imported())
    assert result.cluster == "dynamic-aws"
    assert result.aws.region == "us-east-1"
    gpu, big, cpu = result.pools
    assert (gpu.name, gpu.queues, gpu.instance_types, gpu.max_instances) == (
        "aws4gpu",
        ("gpu_queue",),
        ("g4dn.4xlarge",),
        3,
    )
    assert (gpu.market.value, gpu.zones, gpu.key_name) == ("spot", ("us-east-1b",), "ops")
    assert gpu.tags == {"team": "vision", "cost": "42"}
    assert gpu.volume is not None
    assert (gpu.volume.size_gb, gpu.volume.type, gpu.volume.device_name) == (100, "gp3", "/dev/xvda")
    assert str(gpu.idle_timeout) == "15m"
    assert str(gpu.startup_timeout) == "30m"
    assert gpu.docker_image == "nvidia/cuda:12.4.1-runtime-ubuntu22.04"
    assert gpu.instance_profile == "arn:aws:iam::123456789012:instance-profile/clearml"
    assert gpu.git is not None
    assert str(gpu.git.password) == "ssm:/scaler-sidecar/dynamic-aws/git-password"
    assert gpu.extra_clearml_conf is not None
    assert 'agent.extra_docker_arguments: ["--ipc=host"]' in gpu.extra_clearml_conf
    assert "agent.package_manager.type: uv" in gpu.extra_clearml_conf
    assert gpu.init_script is not None
    assert "mkdir -p /data" in gpu.init_script
    assert (big.name, big.subnets, big.zones, big.instance_profile) == (
        "aws-big",
        ("subnet-0a1b2c3d",),
        (),
        "big-profile",
    )
    assert (cpu.queues, cpu.cpu_only, cpu.max_instances) == (("cpu queue",), True, 5)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("hyper_params.max_idle_time_min", "translated: idle_timeout: 15m"),
        ("hyper_params.polling_interval_time_min", "write poll_interval: 5m"),
        (
            "hyper_params.git_pass",
            "not copied: pools[].git.password: ssm:/scaler-sidecar/dynamic-aws/git-password",
        ),
        ("hyper_params.shiny_new_setting", "not translated: this key is not known"),
        ("configurations.queues.cpu queue", "names the resource missing"),
        ("configurations.queues.unused", "at most 0 instances"),
        ("configurations.resource_configurations.idle_resource", "no queue uses it"),
        (
            "configurations.resource_configurations.aws4gpu.regular_instance_rollback",
            "market: on-demand after this one",
        ),
        ("configurations.resource_configurations.AWS_big.availability_zone", "a subnet lies in one zone already"),
        ("configurations.resource_configurations.AWS_big.ebs_volume_type", "io1 needs a number of iops"),
        ("configurations.resource_configurations.AWS_big.extra_configurations.Monitoring", "cannot be extended freely"),
        ("configurations.extra_vm_bash_script", "line 2 looks like a secret"),
    ],
)
def test_what_is_said_about_a_key(key: str, text: str) -> None:
    assert text in said(imported(), key)


def test_an_image_of_the_original_must_be_baked_first_and_may_be_named_by_something_else_than_its_id() -> None:
    result = imported(wish=Wish())
    resources = "configurations.resource_configurations"
    assert "packer build -var source_ami=ami-07c95cafbb788face packer.json" in said(
        result, f"{resources}.aws4gpu.ami_id"
    )
    assert result.config["pools"][2]["ami"] == "name:my-image-alias"
    by_name = said(result, f"{resources}.cpu_only.ami_id")
    assert "among the images of your own account" in by_name
    assert "has no sidecar yet" in by_name


@pytest.mark.parametrize("given", ["resolve:ssm:/aws/service/ami", "name:golden-*"])
def test_an_image_by_parameter_or_name_is_taken_as_it_is(tmp_path: Path, given: str) -> None:
    result = imported(one_resource(tmp_path, {"instance_type": "c5.large", "ami_id": given}), Wish())
    assert result.config["pools"][0]["ami"] == given


@pytest.mark.parametrize("given", [7, "", "an?image:of:nobody"])
def test_what_names_no_image_is_not_translated(tmp_path: Path, given: object) -> None:
    result = imported(one_resource(tmp_path, {"instance_type": "c5.large", "ami_id": given}), Wish())
    assert "ami" not in result.config["pools"][0]
    assert "give it with --ami" in said(result, "configurations.resource_configurations.r.ami_id")


def test_with_a_stack_no_instance_profile_is_kept() -> None:
    result = imported(wish=Wish(ami="ami-1", stack=True))
    assert all("instance_profile" not in pool for pool in result.config["pools"])
    assert "the stack makes" in said(result, "hyper_params.iam_arn")


def test_a_cloned_tasks_json_says_the_same(tmp_path: Path) -> None:
    data = yaml.safe_load(FILE.read_text())
    task = {
        "id": "a" * 32,
        "hyperparams": {
            "General": {
                name: {"section": "General", "name": name, "value": "" if value is None else str(value)}
                for name, value in data["hyper_params"].items()
            }
        },
        "configuration": {"General": {"name": "General", "value": json.dumps(data["configurations"])}},
    }
    file = tmp_path / "task.json"
    for document in (task, {"data": {"task": task}}):
        file.write_text(json.dumps(document))
        result = imported(file)
        assert result.config == imported().config
        assert said(result, "hyperparams.General.max_idle_time_min") == "translated: idle_timeout: 15m"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the SDK's parser
def test_a_tasks_configuration_may_be_hocon(tmp_path: Path) -> None:
    hocon = """
    resource_configurations { cpu { instance_type = "c5.large", is_spot = false, ami_id = "ami-1", subnet_id = "subnet-1" } }
    queues { default = [["cpu", 2]] }
    extra_clearml_conf = ""
    """
    task = {"hyperparams": {"Args": {"max_idle_time_min": {"value": "7"}}}, "configuration": {"x": {"value": hocon}}}
    file = tmp_path / "task.json"
    file.write_text(json.dumps(task))
    (pool,) = config(imported(file)).pools
    assert (pool.name, pool.queues, pool.max_instances, str(pool.idle_timeout)) == ("cpu", ("default",), 2, "7m")


@pytest.mark.parametrize(
    "text",
    ["", "a: 1", "- 1", "hyper_params: 3\nconfigurations: {}", "{broken", "hyperparams: {}\n", "configurations: text"],
)
def test_a_file_that_is_something_else_is_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        read_source(file)


@pytest.mark.parametrize(
    "resource",
    [
        {"instance_type": "not a type", "ami_id": "ami-1"},
        {
            "instance_type": "c5.large",
            "ami_id": 7,
            "tags": "nonsense",
            "ebs_device_name": "xvda",
            "ebs_volume_size": "huge",
        },
        {
            "instance_type": ["c5.large"],
            "ami_id": "ami-1",
            "tags": {"aws:own": "1"},
            "subnet_id": "mine",
            "extra_configurations": 3,
        },
        "text",
        None,
    ],
)
def test_values_that_our_schema_refuses_are_left_out_with_a_line(tmp_path: Path, resource: Any) -> None:
    result = imported(one_resource(tmp_path, resource))
    assert any(line.outcome is Outcome.NOT_TRANSLATED for line in result.lines)
    for pool in result.config["pools"]:
        whole = {"instance_types": ["c5.large"], "ami": "ami-1", **pool, "queues": ["default"]}
        parse_yaml(yaml.safe_dump({**result.config, "pools": [whole]}))


#: What may stand where something else was meant.
STRANGE: tuple[Any, ...] = (
    None, 0, -1, 7, 2000, 100_000, 10**30, 1.5, float("inf"), True, "", "x", "two words", "ä" * 300, "#!", "a=b", "aws:x=1",
    "ami-1", [], ["x"], [1, [2]], {}, {"a": "b"}, {1: {2: 3}},
)  # fmt: skip


def replaced(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    whole = copy.deepcopy(data)
    place = whole
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return whole


def places(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every section, list and value, but the two that make the file what it is."""
    if len(path) > 1:
        yield path
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*path, key))


@pytest.mark.parametrize("strange", STRANGE, ids=repr)
def test_whatever_stands_in_the_file_every_pool_that_comes_out_is_one(strange: Any) -> None:
    original = yaml.safe_load(FILE.read_text())
    for place in places(original):
        data = replaced(original, place, strange)
        source = Source(data["hyper_params"], data["configurations"])
        for wish in (Wish(), Wish(stack=True)):
            result = translate(source, wish, SecretPlaces(SecretSource.SSM, cluster_of(source, wish)))
            pools = [{"ami": "ami-1", **pool} for pool in result.config["pools"]]
            if pools:
                ScalerConfig.model_validate({**result.config, "pools": pools})
            else:
                assert place[:2] in {("configurations", "resource_configurations"), ("configurations", "queues")}, place


def with_hyper_params(folder: Path, **settings: Any) -> Path:
    data = yaml.safe_load(FILE.read_text())
    data["hyper_params"].update(settings)
    file = folder / "a.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (
            "max_idle_time_min",
            100_000,
            "idle_timeout must be a duration from 1s to 30d, or never; it keeps its default",
        ),
        ("max_spin_up_time_min", 2000, "startup_timeout must be a duration from 1s to 6h; it keeps its default"),
        ("cloud_credentials_region", "Frankfurt", "aws.region must be an AWS region, such as"),
        ("default_docker_image", "Big/Image", "docker_image must be a docker image"),
        ("iam_arn", "a role", "instance_profile must be"),
        ("git_user", "x" * 300, "git.user must be"),
    ],
)
def test_a_shared_setting_that_we_do_not_take_is_not_translated_and_says_why(
    tmp_path: Path, name: str, value: Any, reason: str
) -> None:
    result = imported(with_hyper_params(tmp_path, **{name: value}))
    config(result)
    told = said(result, f"hyper_params.{name}")
    assert told.startswith("not translated: ")
    assert reason in told


@pytest.mark.parametrize(("user", "why"), [("", "is empty"), (None, "is empty"), ("x" * 300, "is refused")])
def test_a_git_password_without_a_user_that_counts_is_not_promised(tmp_path: Path, user: Any, why: str) -> None:
    result = imported(with_hyper_params(tmp_path, git_user=user))
    assert all("git" not in pool for pool in result.config["pools"])
    assert said(result, "hyper_params.git_pass") == (
        f"secret: not copied, and no pools[].git was written, because git_user {why}; add both by hand"
    )


def test_a_tag_that_is_reserved_is_left_out_and_the_others_stay(tmp_path: Path) -> None:
    result = imported(with_hyper_params(tmp_path, tags="aws:x=1, team=research"))
    assert {pool.name: pool.tags for pool in config(result).pools}["aws-big"] == {"team": "research"}
    told = said(result, "hyper_params.tags")
    assert "not translated: the tag aws:x was left out" in told
    assert "translated: pools[].tags: 1 of them" in told


def test_a_resource_and_a_queue_may_be_called_by_a_number(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    resources = {1: {"instance_type": "c5.large", "ami_id": "ami-1"}}
    configurations = {"resource_configurations": resources, "queues": {100: [[1, 2]]}}
    file.write_text(yaml.safe_dump({"hyper_params": {}, "configurations": configurations}))
    (pool,) = config(imported(file)).pools
    assert (pool.name, pool.queues, pool.max_instances) == ("1", ("100",), 2)


def test_a_resource_without_an_instance_type_is_no_pool_and_says_why(tmp_path: Path) -> None:
    result = imported(one_resource(tmp_path, {"ami_id": "ami-1"}))
    assert result.config["pools"] == []
    told = said(result, "configurations.resource_configurations.r")
    assert told == (
        "not translated: pool r was left out: instance_types is missing; it must be a list such as [g5.xlarge, g4dn.xlarge]"
    )


def test_with_a_pool_goes_all_that_was_said_of_its_keys_and_a_queue_that_nothing_serves_any_more_says_so(
    tmp_path: Path,
) -> None:
    bad = {"instance_type": "p3dn", "is_spot": True, "tags": "a=b", "ami_id": "ami-1", "key_name": ""}
    good = {"instance_type": "c5.large", "is_spot": False, "ami_id": "ami-1"}
    configurations = {
        "resource_configurations": {"gpu": bad, "gpu.x": good},
        "queues": {
            "aaa": [["gpu", 2]],
            "both": [["gpu", 1], ["gpu.x", 3]],
            "fine": [["gpu.x", 1]],
            "none": [["no", 1]],
        },
    }
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump({"hyper_params": {}, "configurations": configurations}))
    result = imported(file, Wish())
    assert [pool["name"] for pool in result.config["pools"]] == ["gpu-x"]
    gpu = "configurations.resource_configurations.gpu"
    told = {line.key for line in result.lines if line.outcome is not Outcome.NOT_TRANSLATED}
    assert not told & {gpu, *(f"{gpu}.{key}" for key in bad)}
    assert {f"{gpu}.x", f"{gpu}.x.is_spot"} <= told, "the lines of another resource stay"
    assert "not translated: pool gpu was left out" in said(result, gpu)
    assert "instance_types[0] must be" in said(result, f"{gpu}.instance_type")
    assert said(result, "configurations.queues.aaa") == (
        "not translated: no pool serves it, as pool gpu was left out; add it to another pool's queues"
    )
    assert said(result, "configurations.queues.both") == (
        "translated: pool gpu-x, max_instances: 3; without pool gpu, left out"
    )
    assert said(result, "configurations.queues.fine") == "translated: pool gpu-x, max_instances: 1"
    assert "no pool does" in said(result, "configurations.queues.none")


def test_a_queue_that_clearml_itself_refuses_is_left_out(tmp_path: Path) -> None:
    data = yaml.safe_load(FILE.read_text())
    data["configurations"]["queues"]["q"] = [["aws4gpu", 4]]
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(data))
    result = imported(file)
    assert {pool.name: pool.queues for pool in config(result).pools}["aws4gpu"] == ("gpu_queue",)
    assert "not translated: its name must be a queue name of 3 characters" in said(result, "configurations.queues.q")


def test_the_originals_script_runs_under_bash_as_it_was_written(tmp_path: Path) -> None:
    """The boot runs a pool's script as ``/bin/sh -e -c``; sh is dash on Debian and Ubuntu."""
    script = "\n".join(
        (
            "#!/bin/bash",
            "words=(one 'two three')",
            'if [[ ${words[1]} == two* ]]; then echo "${#words[@]} words"; fi',
            "read -r line || echo nothing to read",
            "END_OF_SCRIPT",
            "echo never",
        )
    )
    data = yaml.safe_load(FILE.read_text())
    data["configurations"]["extra_vm_bash_script"] = script
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(data))
    written = config(imported(file)).pools[0].init_script
    assert written is not None
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", written], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.stdout == "2 words\nnothing to read\n"
    assert done.returncode == 127, "a command that fails ends it, and its exit code is the script's"
