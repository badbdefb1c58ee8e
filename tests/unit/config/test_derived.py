"""What other parts get from the configuration: the policy, the EC2 calls, the reference page."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.config.launches import launch_candidates
from scaler_plugin.config.load import dump_json, load_file, parse_json
from scaler_plugin.config.policy import cluster_policy
from scaler_plugin.config.reference import reference
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.model import LaunchId, Market, PoolName, Volume
from scaler_plugin.core.policy import ZeroMode
from scaler_plugin.errors import ConfigError

DOCS = Path(__file__).parents[3] / "docs"


def test_the_policy_has_the_configurations_numbers() -> None:
    policy = cluster_policy(load_file(DOCS / "examples" / "scaler.yaml"))
    assert (policy.cluster, policy.max_instances, policy.poll_interval_s) == ("research", 20, 2.0)
    assert policy.zero_mode is ZeroMode.STANDBY
    assert policy.queues == ("urgent", "default", "preprocessing")
    cpu = policy.pool(PoolName("cpu"))
    assert cpu is not None
    assert (cpu.min_instances, cpu.max_instances, cpu.slots_per_node) == (1, 8, 2)
    assert (cpu.idle_timeout_s, cpu.startup_timeout_s) == (1800.0, 300.0)


@pytest.mark.parametrize(
    ("aws", "zero", "in_force"),
    [
        ({}, None, ZeroMode.STANDBY),
        ({"stack": "mine"}, None, ZeroMode.PROBE),
        ({"stack": "mine"}, {"probe_every": "1m"}, ZeroMode.PROBE),
        ({"stack": "mine"}, {"mode": "standby"}, ZeroMode.STANDBY),
        ({"stack": "mine"}, {"mode": "keep_one"}, ZeroMode.KEEP_ONE),
        ({}, {"mode": "probe"}, ZeroMode.PROBE),
    ],
)
def test_the_zero_mode_that_was_not_chosen_follows_the_stack(
    minimal: dict[str, Any], aws: dict[str, str], zero: dict[str, str] | None, in_force: ZeroMode
) -> None:
    config = parse_json(json.dumps({**minimal, "aws": aws, **({"zero": zero} if zero else {})}))
    assert config.zero_mode is in_force
    assert cluster_policy(config).zero_mode is in_force
    # Published as it was written: adding a stack later changes the mode, and so does another default.
    again = parse_json(dump_json(config))
    assert again == config
    assert again.zero_mode is in_force


def test_nothing_but_the_schema_asks_for_the_mode_that_was_written() -> None:
    asking = [
        file.name
        for file in (DOCS.parent / "scaler_plugin").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node).endswith(".zero.mode")
    ]
    assert asking == ["schema.py"]


def test_never_is_none_in_the_policy_and_no_maximum_is_the_pools_sum(minimal: dict[str, Any]) -> None:
    minimal["pools"][0]["idle_timeout"] = "never"
    minimal["pools"].append(minimal["pools"][0] | {"name": "more", "max_instances": 4})
    policy = cluster_policy(parse_json(json.dumps(minimal)))
    assert policy.pools[0].idle_timeout_s is None
    assert policy.max_instances == 7


def test_candidates_try_the_preferred_type_everywhere_before_the_next() -> None:
    config = load_file(DOCS / "examples" / "scaler.yaml")
    candidates = launch_candidates(config, PoolName("gpu-spot"), LaunchId("l1"), 3, "data")
    assert [(each.instance_type, each.subnet_id) for each in candidates] == [
        ("g5.xlarge", "subnet-0a1b2c3d4e5f60718"),
        ("g5.xlarge", "subnet-1b2c3d4e5f6071829"),
        ("g4dn.xlarge", "subnet-0a1b2c3d4e5f60718"),
        ("g4dn.xlarge", "subnet-1b2c3d4e5f6071829"),
    ]
    first = candidates[0]
    assert (first.cluster, first.pool, first.launch_id, first.count) == ("research", "gpu-spot", "l1", 3)
    assert first.market is Market.SPOT
    assert first.volume == Volume("/dev/sda1", 200, "gp3", throughput=250)
    assert first.tags == (("team", "vision"),)
    assert first.user_data == "data"
    assert first.zone is None


def test_candidates_of_a_pool_with_zones_name_zones() -> None:
    config = load_file(DOCS / "examples" / "scaler.yaml")
    candidates = launch_candidates(config, PoolName("cpu"), LaunchId("l1"), 1, "")
    assert [(each.instance_type, each.zone) for each in candidates[:2]] == [
        ("c6i.2xlarge", "eu-central-1a"),
        ("c6i.2xlarge", "eu-central-1b"),
    ]
    assert all(each.subnet_id is None for each in candidates)


def test_a_pool_without_a_place_has_one_candidate_per_type(minimal: dict[str, Any]) -> None:
    (only,) = launch_candidates(parse_json(json.dumps(minimal)), PoolName("cpu"), LaunchId("l1"), 1, "")
    assert (only.subnet_id, only.zone, only.volume) == (None, None, None)


def test_a_launch_for_an_unknown_pool_is_refused(minimal: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="The pool gone is not in the configuration of cluster demo"):
        launch_candidates(parse_json(json.dumps(minimal)), PoolName("gone"), LaunchId("l1"), 1, "")


def test_the_reference_page_is_up_to_date() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m scaler_plugin.config.reference > docs/configuration.md"


def test_every_setting_is_described() -> None:
    schema = ScalerConfig.model_json_schema()
    for section in [schema, *schema["$defs"].values()]:
        assert section["description"]
        assert section["additionalProperties"] is False
        for name, field in section["properties"].items():
            assert field.get("description") or "$ref" in field, name


def test_reading_the_published_configuration_needs_neither_yaml_nor_boto3(minimal: dict[str, Any]) -> None:
    program = (
        "import sys; from scaler_plugin.config.load import parse_json; parse_json(sys.stdin.read());"
        "print([name for name in ('yaml', 'boto3', 'typer', 'rich', 'clearml') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(minimal), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
