from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from scaler_plugin.config.load import dump_json, load_file, parse_json, parse_yaml
from scaler_plugin.config.shown import shown_yaml
from scaler_plugin.errors import ConfigError

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "scaler.yaml"


def test_the_annotated_example_is_valid() -> None:
    config = load_file(EXAMPLE)
    assert [pool.name for pool in config.pools] == ["gpu-spot", "gpu", "cpu"]


def test_the_canonical_form_is_lossless_and_stable() -> None:
    config = load_file(EXAMPLE)
    text = dump_json(config)
    assert parse_json(text) == config
    assert dump_json(parse_json(text)) == text


def test_what_is_shown_can_be_pushed_again() -> None:
    config = load_file(EXAMPLE)
    assert dump_json(parse_yaml(shown_yaml(config))) == dump_json(config)


def test_the_canonical_form_holds_what_was_set_in_the_order_of_the_schema(minimal: dict[str, Any]) -> None:
    minimal = {"pools": minimal["pools"], "poll_interval": "2000ms", "cluster": "demo"}
    minimal["pools"][0] |= {"idle_timeout": "never", "docker_image": "none"}
    assert list(json.loads(dump_json(parse_json(json.dumps(minimal))))) == ["cluster", "poll_interval", "pools"]
    stored = json.loads(dump_json(parse_json(json.dumps(minimal))))
    assert stored["poll_interval"] == "2s"
    assert (stored["pools"][0]["idle_timeout"], stored["pools"][0]["docker_image"]) == ("never", "none")
    assert "startup_timeout" not in stored["pools"][0]


def test_never_and_none_are_none_in_the_model(minimal: dict[str, Any]) -> None:
    minimal["pools"][0] |= {"idle_timeout": "never", "docker_image": "none"}
    (pool,) = parse_json(json.dumps(minimal)).pools
    assert pool.idle_timeout is None
    assert pool.docker_image is None


def test_references_to_secrets_stay_references(minimal: dict[str, Any]) -> None:
    minimal["etcd"] = {"user": "a", "password": "env:PW"}
    config = parse_json(json.dumps(minimal))
    assert json.loads(dump_json(config))["etcd"]["password"] == "env:PW"
    assert "password: env:PW" in shown_yaml(config)


def test_secrets_in_scripts_are_shown_masked_but_stored_as_they_are(minimal: dict[str, Any]) -> None:
    minimal["pools"][0] |= {
        "init_script": "export TOKEN=hunter2",
        "extra_clearml_conf": 'a\nagent.git_pass: "hunter2"\n',
        "checks": [{"script": "curl -u a:hunter2 https://x\n"}, {"command": "check --password hunter2"}],
    }
    config = parse_json(json.dumps(minimal))
    shown = shown_yaml(config)
    assert "hunter2" not in shown
    assert dump_json(config).count("hunter2") == 4
    with pytest.raises(ConfigError) as refused:
        parse_yaml(shown)
    for key in ("init_script", "extra_clearml_conf", "checks[0].script", "checks[1].command"):
        assert re.search(rf"{re.escape(key)} .*the mark that `config show` prints", str(refused.value)), key


def test_a_command_line_is_one_line(minimal: dict[str, Any]) -> None:
    minimal["pools"][0]["checks"] = [{"command": "a\nb"}]
    with pytest.raises(ConfigError, match="a command line"):
        parse_json(json.dumps(minimal))


def test_a_loaded_configuration_cannot_be_changed(minimal: dict[str, Any]) -> None:
    config = parse_json(json.dumps(minimal))
    with pytest.raises(ValidationError, match="frozen"):
        config.cluster = "other"  # type: ignore[misc]


def test_yaml_anchors_and_merges_work() -> None:
    config = parse_yaml(
        "cluster: demo\npools:\n"
        "  - &cpu {name: cpu, queues: [default], instance_types: [c6i.large], ami: ami-1, max_instances: 3}\n"
        "  - {<<: *cpu, name: more}\n"
    )
    assert [pool.name for pool in config.pools] == ["cpu", "more"]


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml cannot be read: No such file or directory; check the name"):
        load_file(tmp_path / "nothing.yaml")


def test_a_file_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "scaler.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"scaler\.yaml cannot be read: it is not UTF-8 text"):
        load_file(tmp_path / "scaler.yaml")
