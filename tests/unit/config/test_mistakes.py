"""Every mistake is a sentence with the key path, the value found (unless it may be a secret), and what is allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scaler_plugin.config.load import parse_json, parse_yaml
from scaler_plugin.config.problems import InvalidConfig
from scaler_plugin.errors import ConfigError

REFERENCE = "it must be a reference to the secret: env:NAME, file:/path, ssm:/parameter/name or secretsmanager:name"
GONE = object()


def mistakes(data: dict[str, Any], path: str, value: object) -> list[str]:
    """The sentences for ``data`` after setting the value at the path, such as ``pools.0.name``."""
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = data
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
    if value is GONE:
        del place[last]
    elif isinstance(place, list):
        place.insert(int(last), value)
    else:
        place[last] = value
    with pytest.raises(InvalidConfig) as caught:
        parse_json(json.dumps(data))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("cluster", GONE, "cluster: is missing; it must be 1 to 40 of a-z"),
        ("cluster", "My Cluster", 'cluster: is "My Cluster"; it must be 1 to 40 of a-z, 0-9 and -'),
        ("cluster", "a:b", 'cluster: is "a:b"; it must be 1 to 40 of a-z'),
        (
            "cluster",
            7,
            "cluster: is 7; it must be 1 to 40 of a-z, 0-9 and -, not beginning or ending with -; put it in quotes",
        ),
        ("cluster", "x" * 41, f'cluster: is "{"x" * 41}"; it must be 1 to 40'),
        ("prefix", "/a/", 'prefix: is "/a/"; it must be letters, digits and . _ -, in parts separated by /'),
        ("max_instances", 0, "max_instances: is 0; it must be a whole number from 1 to 100000"),
        ("max_instances", "5", 'max_instances: is "5"; it must be a whole number'),
        ("max_instances", True, "max_instances: is true; it must be a whole number"),
        ("max_instances", 2.5, "max_instances: is 2.5; it must be a whole number"),
        ("poll_interval", "1ms", 'poll_interval: is "1ms"; it must be a duration from 100ms to 10m'),
        ("poll_interval", "never", 'poll_interval: is "never"; it must be a duration with its unit'),
        ("leader_ttl", "1s", 'leader_ttl: is "1s"; it must be a duration from 2s to 5m, in whole seconds'),
        ("leader_ttl", "2500ms", 'leader_ttl: is "2500ms"; it must be a duration from 2s to 5m, in whole seconds'),
        ("zero.mode", "never", 'zero.mode: is "never"; it must be one of probe, standby, keep_one'),
        ("zero", "standby", "zero: is a text (not shown: it may be a secret); it must be a section with the keys mode"),
        (
            "etcd.endpoints",
            ["10.0.0.5"],
            'etcd.endpoints[0]: is "10.0.0.5"; it must be host:port, such as 10.0.0.5:2379',
        ),
        (
            "etcd.endpoints",
            "10.0.0.5:2379",
            'etcd.endpoints: is "10.0.0.5:2379"; it must be a list such as [10.0.0.5:2379',
        ),
        (
            "etcd.endpoints",
            ["a:1", "a:1"],
            'etcd.endpoints[1]: is "a:1"; it must be different from the items before it',
        ),
        (
            "etcd.endpoints",
            ["http://me:hunter2@a:1"],
            "etcd.endpoints[0]: is a URL with a login in it (not shown); it must be",
        ),
        ("etcd.user", "scaler", "etcd.password: is missing; it must be given together with etcd.user"),
        ("etcd.password", "env:PW", "etcd.user: is missing; it must be given together with etcd.password"),
        (
            "etcd.password",
            "hunter2",
            f"etcd.password: is a text (not shown: it may be a secret); {REFERENCE}, and never the",
        ),
        ("etcd.tls", {}, "etcd.tls.ca: is missing; it must be an absolute path"),
        ("etcd.tls", {"ca": "ca.pem"}, 'etcd.tls.ca: is "ca.pem"; it must be an absolute path'),
        (
            "etcd.tls",
            {"ca": "/a", "cert": "/b"},
            "etcd.tls.key: is missing; it must be given together with etcd.tls.cert",
        ),
        (
            "etcd.tls",
            {"ca": "/a", "key": "/b"},
            "etcd.tls.cert: is missing; it must be given together with etcd.tls.key",
        ),
        (
            "clearml.api_host",
            "api.clear.ml",
            "clearml.api_host: is a text (not shown: it may be a secret); it must be a URL",
        ),
        (
            "clearml.access_key",
            "env:A",
            "clearml.secret_key: is missing; it must be given together with clearml.access_key",
        ),
        (
            "clearml.secret_key",
            "env:A",
            "clearml.access_key: is missing; it must be given together with clearml.secret_key",
        ),
        ("clearml.secret_key", 5, f"clearml.secret_key: is a number; {REFERENCE}"),
        ("aws.region", "Frankfurt", 'aws.region: is "Frankfurt"; it must be an AWS region, such as eu-central-1'),
        ("pools", GONE, "pools: is missing; it must be a list of sections with the keys name, queues"),
        ("pools", [], "pools: is an empty list; it must be a list of at least one pool"),
        ("pools", {"cpu": {}}, "pools: is a section; it must be a list of sections with the keys name"),
        (
            "pools",
            ["cpu"],
            "pools[0]: is a text (not shown: it may be a secret); it must be a section with the keys name",
        ),
        ("pools.0.name", GONE, "pools[0].name: is missing; it must be 1 to 40 of a-z"),
        ("pools.0.name", "gpu:a", 'pools[0].name: is "gpu:a"; it must be 1 to 40 of a-z, 0-9 and -'),
        (
            "pools.0.name",
            False,
            "pools[0].name: is false; it must be 1 to 40 of a-z, 0-9 and -, not beginning or ending with -; put",
        ),
        (
            "pools.0.queues",
            [],
            "pools[0].queues (pool cpu): is an empty list; it must be a list such as [urgent, default]",
        ),
        (
            "pools.0.queues",
            ["ab"],
            'pools[0].queues[0] (pool cpu): is "ab"; it must be a queue name of 3 characters or more',
        ),
        (
            "pools.0.queues",
            ["abc", "abc"],
            'pools[0].queues[1] (pool cpu): is "abc"; it must be different from the items',
        ),
        (
            "pools.0.instance_types",
            ["large"],
            'pools[0].instance_types[0] (pool cpu): is "large"; it must be an EC2 instance type',
        ),
        ("pools.0.market", "cheap", 'pools[0].market (pool cpu): is "cheap"; it must be one of on-demand, spot'),
        (
            "pools.0.ami",
            "ubuntu",
            'pools[0].ami (pool cpu): is "ubuntu"; it must be an AMI id, such as ami-0a1b2c3d4e5f67890',
        ),
        ("pools.0.ami", "name:", 'pools[0].ami (pool cpu): is "name:"; it must be an AMI id'),
        ("pools.0.ami", "name:1234:golden", 'pools[0].ami (pool cpu): is "name:1234:golden"; it must be an AMI id'),
        ("pools.0.ami", "resolve:ssm:", 'pools[0].ami (pool cpu): is "resolve:ssm:"; it must be an AMI id'),
        ("pools.0.ami", "name: x", 'pools[0].ami (pool cpu): is "name: x"; it must be an AMI id'),
        ("pools.0.ami", None, "pools[0].ami (pool cpu): is empty; it must be an AMI id"),
        ("pools.0.subnets", ["vpc-1"], 'pools[0].subnets[0] (pool cpu): is "vpc-1"; it must be a subnet id'),
        (
            "pools.0.zones",
            ["a"],
            'pools[0].zones[0] (pool cpu): is "a"; it must be an availability zone, such as eu-central-1a',
        ),
        (
            "pools.0.security_groups",
            ["default"],
            'pools[0].security_groups[0] (pool cpu): is "default"; it must be a security',
        ),
        (
            "pools.0.instance_profile",
            "a b",
            'pools[0].instance_profile (pool cpu): is "a b"; it must be an instance profile',
        ),
        (
            "pools.0.max_instances",
            -1,
            "pools[0].max_instances (pool cpu): is -1; it must be a whole number from 1 to 100000",
        ),
        ("pools.0.min_instances", 4, "pools[0].min_instances (pool cpu): is 4; it must be at most max_instances, 3"),
        ("pools.0.idle_timeout", 0, "pools[0].idle_timeout (pool cpu): is 0; it must be a duration with its unit"),
        ("pools.0.idle_timeout", 0, "or never: a bare 0 is ambiguous (at once, or never?)"),
        ("pools.0.idle_timeout", 600, "pools[0].idle_timeout (pool cpu): is 600; it must be a duration with its unit"),
        ("pools.0.idle_timeout", 600, "a number alone is ambiguous (seconds, or minutes?)"),
        (
            "pools.0.idle_timeout",
            None,
            "pools[0].idle_timeout (pool cpu): is empty; it must be a duration with its unit",
        ),
        (
            "pools.0.idle_timeout",
            "40d",
            'pools[0].idle_timeout (pool cpu): is "40d"; it must be a duration from 1s to 30d, or never',
        ),
        (
            "pools.0.startup_timeout",
            "never",
            'pools[0].startup_timeout (pool cpu): is "never"; it must be a duration with its',
        ),
        (
            "pools.0.slots_per_node",
            0,
            "pools[0].slots_per_node (pool cpu): is 0; it must be a whole number from 1 to 64",
        ),
        ("pools.0.docker_image", "", 'pools[0].docker_image (pool cpu): is ""; it must be a docker image, or none'),
        (
            "pools.0.docker_image",
            None,
            "pools[0].docker_image (pool cpu): is empty; it must be a docker image, or none",
        ),
        ("pools.0.cpu_only", "yes", 'pools[0].cpu_only (pool cpu): is "yes"; it must be true or false'),
        (
            "pools.0.init_script",
            " ",
            "pools[0].init_script (pool cpu): is a text (not shown: it may be a secret); it must be a shell",
        ),
        ("pools.0.init_script", "x" * 100_001, "it must be a shell script of at most 100000 characters"),
        ("pools.0.init_script", "TOKEN=***", "it must be a shell script as it was written; this one holds ***"),
        (
            "pools.0.tags",
            ["a"],
            "pools[0].tags (pool cpu): is a list; it must be a mapping of at most 40 tag names to values",
        ),
        ("pools.0.tags", {"aws:x": "y"}, "names that begin with aws: or scaler: are reserved, and aws:x does"),
        ("pools.0.tags", {"Scaler:x": "y"}, "names that begin with aws: or scaler: are reserved, and Scaler:x does"),
        ("pools.0.tags", {"spot": True}, "pools[0].tags.spot (pool cpu): is true; it must be text; put it in quotes"),
        ("pools.0.tags", {"a": "b\n"}, 'pools[0].tags.a (pool cpu): is "b\\n"; it must be at most 256 letters'),
        (
            "pools.0.tags",
            {"": "b"},
            "pools[0].tags (pool cpu): is a section; it must be a mapping of at most 40 tag names",
        ),
        ("pools.0.git", {"user": "a"}, f"pools[0].git.password (pool cpu): is missing; {REFERENCE}"),
        (
            "pools.0.git",
            {"user": "a", "password": "hunter2"},
            f"git.password (pool cpu): is a text (not shown: it may be a secret); {REFERENCE}",
        ),
        (
            "pools.0.volume",
            {},
            "pools[0].volume.size_gb (pool cpu): is missing; it must be a whole number from 1 to 65536",
        ),
        (
            "pools.0.volume",
            {"size_gb": 8, "type": "ssd"},
            'pools[0].volume.type (pool cpu): is "ssd"; it must be one of gp3, gp2',
        ),
        (
            "pools.0.volume",
            {"size_gb": 8, "type": "gp2", "iops": 3000},
            "pools[0].volume.iops (pool cpu): is 3000; it must be left out",
        ),
        (
            "pools.0.volume",
            {"size_gb": 8, "type": "io2"},
            "pools[0].volume.iops (pool cpu): is missing; it must be given",
        ),
        (
            "pools.0.volume",
            {"size_gb": 8, "type": "gp2", "throughput": 125},
            "pools[0].volume.throughput (pool cpu): is 125; it must be left",
        ),
        (
            "pools.0.volume",
            {"size_gb": 8, "throughput": 124},
            "pools[0].volume.throughput (pool cpu): is 124; it must be a whole number from 125",
        ),
        (
            "pools.0.idel_timeout",
            "5m",
            "pools[0].idel_timeout (pool cpu): is an unknown key; did you mean idle_timeout? (allowed here are",
        ),
        ("zer", "a", "zer: is an unknown key; did you mean zero? (allowed here are cluster, prefix"),
        ("frobnicate", 1, "frobnicate: is an unknown key; allowed here are cluster, prefix"),
        ("etcd.tls", {"ca": "/a", "certificate": "/b"}, "etcd.tls.certificate: is an unknown key;"),
    ],
)
def test_a_mistake_names_its_place_the_value_and_what_is_allowed(
    minimal: dict[str, Any], path: str, value: object, sentence: str
) -> None:
    (found,) = mistakes(minimal, path, value)
    assert sentence in found


def test_subnets_and_zones_together_are_a_mistake(minimal: dict[str, Any]) -> None:
    minimal["pools"][0]["subnets"] = ["subnet-1"]
    (found,) = mistakes(minimal, "pools.0.zones", ["eu-central-1a"])
    assert found.startswith("pools[0].zones (pool cpu): is a list; it must be left out when subnets are given")


def test_a_zone_outside_the_region_is_a_mistake(minimal: dict[str, Any]) -> None:
    minimal["aws"] = {"region": "eu-central-1"}
    (found,) = mistakes(minimal, "pools.0.zones", ["eu-central-1a", "us-east-1a"])
    assert found == 'pools[0].zones[1] (pool cpu): is "us-east-1a"; it must be a zone of aws.region, eu-central-1'


def test_two_pools_of_one_name_are_a_mistake(minimal: dict[str, Any]) -> None:
    (found,) = mistakes(minimal, "pools.1", dict(minimal["pools"][0]))
    assert found == 'pools[1].name: is "cpu"; it must be different from the pools before it'


def test_a_cluster_maximum_below_the_pools_minima_is_a_mistake(minimal: dict[str, Any]) -> None:
    minimal["pools"][0]["min_instances"] = 3
    (found,) = mistakes(minimal, "max_instances", 2)
    assert found == "max_instances: is 2; it must be at least 3, the sum of the pools' min_instances"


def test_all_mistakes_are_told_at_once_in_one_message(minimal: dict[str, Any]) -> None:
    minimal["cluster"] = "NO"
    minimal["pools"][0]["market"] = "cheap"
    with pytest.raises(ConfigError) as caught:
        parse_json(json.dumps(minimal), where="scaler.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "scaler.yaml has 2 mistakes; nothing was changed."
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["cluster", "pools[0].market (pool cpu)"]
    assert all(line.endswith(".") for line in lines)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("etcd.password", "hunter2"),
        ("etcd.password", ["hunter2"]),
        ("etcd.pasword", "hunter2"),
        ("clearml.secret_key", "env:hunter2 is it"),
        ("clearml.api_host", "https://me:hunter2@api.clear.ml"),
        ("clearml", "hunter2"),
        ("pools.0.git", "hunter2"),
        ("pools.0.git", {"user": "me", "token": "hunter2"}),
        ("pools.0.git", {"user": "me", "password": {"hunter2": 1}}),
        ("aws.secret_access_key", "hunter2"),
        ("aws.endpoint_url", "https://hunter2@ec2"),
    ],
)
def test_a_secret_in_clear_is_refused_and_never_repeated(minimal: dict[str, Any], path: str, value: object) -> None:
    assert "hunter2" not in " ".join(mistakes(minimal, path, value))


def test_no_traceback_holds_a_secret_either(minimal: dict[str, Any]) -> None:
    minimal["etcd"] = {"password": "hunter2"}
    with pytest.raises(InvalidConfig) as caught:
        parse_json(json.dumps(minimal))
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must be a mapping of keys to values, beginning with `cluster:`"),
        ("- a", "must be a mapping of keys to values"),
        ("cluster: [a", r"is not valid YAML: did not find expected ',' or '\]', in line"),
        ("a: b\n\tc: hunter2", "is not valid YAML: .* in line 2, column 1"),
        ("a: *hunter2", r"is not valid YAML: an alias .* \(quote a text that begins with \*\), in line 1, column 4"),
        ("a: !hunter2 b", r"is not valid YAML: a tag .* \(quote a text that begins with !\), in line 1, column 4"),
        ("a: 1\n---\nb: 2", "is not valid YAML: an alias or a second document"),
        ("a: \x07", "is not valid YAML: .*"),
        ("? {a: b}\n: c", "is not valid YAML: a tag or key that is not plain data"),
        ("a: " + "[" * 5000, "is not valid YAML"),
        ("x" * 1_000_001, "has 1000001 characters, and at most 1000000 fit into etcd"),
    ],
)
def test_a_text_that_is_no_yaml_is_a_sentence_with_the_place_and_no_excerpt(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^scaler.yaml {sentence}") as caught:
        parse_yaml(text, where="scaler.yaml")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not valid JSON: .*, in line 1, column 2"),
        ("[]", "must be a mapping of keys to values"),
        ("[" * 100_000, "is not valid JSON"),
        (
            '{"cluster": "a", "cluster": "b"}',
            "has 1 mistake; nothing was changed.\n  cluster: stands twice in one section; keep one",
        ),
    ],
)
def test_a_text_that_is_no_json_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^The configuration {sentence}"):
        parse_json(text)


def test_a_key_that_stands_twice_is_a_mistake_with_both_lines() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_yaml("cluster: a\npools:\n  - name: b\n    market: spot\n    name: c\n")
    assert [str(problem) for problem in caught.value.problems] == ["name: stands twice, in lines 3 and 5; keep one"]
