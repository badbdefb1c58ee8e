"""Answers become a valid, explained configuration with references where secrets belong."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler_plugin.bootstrapping.requirements import check_requirements
from scaler_plugin.config.connect import find_cluster
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.config.pool_schema import QUEUE
from scaler_plugin.config.secret_ref import SecretSource
from scaler_plugin.core.model import Market
from scaler_plugin.errors import ConfigError
from scaler_plugin.wizard.checks import Checks, State, Verdict
from scaler_plugin.wizard.commented import commented_yaml
from scaler_plugin.wizard.first_config import clearml_hosts
from scaler_plugin.wizard.interview import Interview, Question
from scaler_plugin.wizard.questions import Given, Known, ask_config
from scaler_plugin.wizard.secret_places import SecretPlaces
from scaler_plugin.wizard.what_is_next import etcd_certificates, next_steps, secrets_to_store

UNITS_OF_THE_IMAGE = Path(__file__).parents[3] / "ami" / "units"
LEAST = Given(region="eu-central-1", ami="ami-0a1b2c3d", etcd="10.0.0.5:2379")


def asked(given: Given = LEAST, known: Known | None = None) -> tuple[dict[str, Any], Any]:
    interview = Interview(None, lambda _: None, checking=False)
    return ask_config(interview, given, known or Known(), Checks())


def test_three_answers_are_enough_for_a_configuration_that_bootstrap_takes() -> None:
    config, _ = asked()
    loaded = parse_yaml(commented_yaml(config))
    check_requirements(loaded)
    (pool,) = loaded.pools
    assert (pool.queues, pool.max_instances, pool.docker_image) == (("default",), 4, None)
    assert loaded.zero.mode.value == "probe"
    assert loaded.aws.stack == "scaler-sidecar-clearml"
    assert loaded.clearml.web_host == "https://app.clear.ml"


@pytest.mark.parametrize("source", ["ssm", "secretsmanager", "file", "env"])
@pytest.mark.parametrize("login", ["certificate", "password", "nothing"])
def test_every_place_for_secrets_and_every_login_gives_a_valid_configuration(source: str, login: str) -> None:
    given = Given(**{**vars(LEAST), "secrets": source, "etcd_login": login, "git_user": "bot"})
    config, around = asked(given)
    loaded = parse_yaml(commented_yaml(config))
    assert (loaded.etcd.tls is not None) == (login == "certificate")
    assert (loaded.etcd.password is not None) == (login == "password")
    steps = secrets_to_store(config, around)
    told = "\n".join(step.text for step in steps)
    assert all(bool(step.command) == (source in ("ssm", "secretsmanager")) for step in steps)
    assert "git's password" in told
    assert ("etcd" in told) == (login != "nothing")


def test_what_is_written_reads_back_as_the_same_data() -> None:
    config, _ = asked()
    config["pools"][0] |= {
        "init_script": "#!/bin/sh\nmkdir -p /data  # 'quoted'\n\necho \"x: y\"\n",
        "tags": {"team": "vision: a", "cost": "42"},
        "queues": ["a, b", "with: colon", "yes", "#hash"],
        "volume": {"size_gb": 100},
    }
    second = {**config["pools"][0], "name": "second"}
    whole = {**config, "pools": [config["pools"][0], second]}
    assert yaml.safe_load(commented_yaml(whole)) == whole


def test_every_key_is_explained() -> None:
    config, _ = asked()
    lines = commented_yaml(config).splitlines()
    for number, line in enumerate(lines):
        if line.strip() and not line.lstrip().startswith("#"):
            assert lines[number - 1].lstrip().startswith("#"), f"nothing is said above {line!r}"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Given(ami="ami-1", etcd="a:1"), "AWS region: there is no default; give --region"),
        (Given(region="eu-central-1", etcd="a:1"), "give --ami"),
        (Given(region="eu-central-1", ami="ami-1"), "give --etcd"),
        (Given(**{**vars(LEAST), "max_instances": "0"}), "--max-instances 0: it must be a whole number from 1"),
        (Given(**{**vars(LEAST), "etcd": "http://x"}), "--etcd http://x: it must be host:port"),
        (Given(**{**vars(LEAST), "queues": "a"}), "--queues a: it must be a queue name of 3 characters"),
        (Given(**{**vars(LEAST), "market": "cheap"}), "--market cheap: it must be one of"),
        (Given(**{**vars(LEAST), "cluster": "Not OK"}), "--cluster Not OK"),
        (Given(**{**vars(LEAST), "secrets": "vault"}), "one of env, file, ssm, secretsmanager"),
    ],
)
def test_without_a_terminal_a_wrong_or_missing_answer_is_a_sentence(given: Given, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(given)
    assert says in str(caught.value)
    assert "Nothing was written" in str(caught.value)


def test_this_machines_own_settings_are_the_defaults() -> None:
    config, _ = asked(Given(ami="ami-1"), Known("us-west-2", "http://clearml:8008", "10.9.9.9:2379"))
    assert config["aws"]["region"] == "us-west-2"
    assert config["etcd"]["endpoints"] == ["10.9.9.9:2379"]
    assert config["clearml"]["files_host"] == "http://clearml:8081"


@pytest.mark.parametrize(
    ("api", "web", "files"),
    [
        ("https://api.clear.ml", "https://app.clear.ml", "https://files.clear.ml"),
        ("https://api.ml.example.com:8443", "https://app.ml.example.com:8443", "https://files.ml.example.com:8443"),
        ("http://10.0.0.9:8008", "http://10.0.0.9:8080", "http://10.0.0.9:8081"),
        ("https://clearml.example.com/api", None, None),
    ],
)
def test_the_api_servers_address_tells_the_others_where_it_can(api: str, web: str | None, files: str | None) -> None:
    hosts = clearml_hosts(api)
    assert (hosts["api_host"], hosts.get("web_host"), hosts.get("files_host")) == (api, web, files)


def test_a_command_that_stores_a_secret_never_has_it_as_an_argument() -> None:
    for source in SecretSource:
        told = SecretPlaces(source, "demo").how_to_store("git-password", "eu-central-1")
        assert "--region eu-central-1" in told or not told.startswith("aws")
        assert "--value file://" in told or "--secret-string file://" in told or not told.startswith("aws")


STATUS = "status --config my.yaml --watch"
STACK = ["bootstrap plan my.yaml", "bootstrap apply my.yaml", "config push my.yaml"]
STANDBY = "run --standby --config my.yaml"


@pytest.mark.parametrize(
    ("more", "commands"),
    [
        ({}, [*STACK, "bootstrap first my.yaml", "wake my.yaml", STATUS]),
        ({"zero": "keep_one"}, [*STACK, "bootstrap first my.yaml", STATUS]),
        ({"zero": "standby"}, [*STACK, STANDBY, STATUS]),
        ({"stack": False}, ["config push my.yaml", STANDBY, STATUS]),
    ],
)
def test_what_comes_next_leads_to_a_node_that_is_up(more: dict[str, Any], commands: list[str]) -> None:
    _, around = asked(Given(**{**vars(LEAST), **more}))
    assert [step.command for step in next_steps("my.yaml", around)] == [f"scaler-sidecar {one}" for one in commands]


@pytest.mark.parametrize("source", ["file", "env"])
def test_who_keeps_secrets_on_nodes_is_told_how_this_machine_reaches_etcd(source: str) -> None:
    def before_push(login: str) -> Any:
        _, around = asked(Given(**{**vars(LEAST), "secrets": source, "etcd_login": login}))
        steps = next_steps("my.yaml", around)
        push = [step.command for step in steps].index("scaler-sidecar config push my.yaml")
        return steps[push - 1]

    export, *settings = shlex.split(before_push("certificate").command)
    assert export == "export"
    environ = dict(setting.split("=") for setting in settings)
    address = find_cluster(environ, cluster="demo").etcd
    folder = "etcd-certs/clients/scaler"
    assert (address.ca, address.cert, address.key) == tuple(
        f"{folder}/{name}" for name in ("ca.pem", "client.pem", "client.key")
    )
    assert ("SCALER_ETCD_PASSWORD_FILE" if source == "file" else "SCALER_ETCD_PASSWORD") in before_push("password").text
    assert before_push("nothing").command == "scaler-sidecar bootstrap apply my.yaml"


def test_secrets_in_the_environment_are_for_the_boot_as_well_as_for_the_sidecar() -> None:
    *secrets, last = secrets_to_store(*asked(Given(**{**vars(LEAST), "secrets": "env", "git_user": "bot"})))
    told = [step.text for step in secrets if "SCALER_" in step.text]
    assert len(told) == 3
    assert all("/etc/scaler/environment" in text for text in told)
    assert "EnvironmentFile=/etc/scaler/environment" in last.text
    for unit in ("scaler-bootstrap.service", "scaler-sidecar.service"):
        assert (UNITS_OF_THE_IMAGE / unit).exists()
        assert f"/etc/systemd/system/{unit}.d/" in last.text


def test_the_certificates_of_the_members_that_were_named_come_first() -> None:
    _, around = asked(Given(**{**vars(LEAST), "etcd": "10.0.0.5:2379, https://etcd.example.com:2379, [fd00::5]:2379"}))
    assert etcd_certificates(around) == (
        "scaler-sidecar etcd certs ./etcd-certs --member etcd-1=10.0.0.5 --member etcd-2=etcd.example.com --member etcd-3=fd00::5"
    )
    assert etcd_certificates(asked(Given(**{**vars(LEAST), "etcd_login": "password"}))[1]) is None


class Desk:
    """Somebody who types these answers."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.said: list[str] = []

    def ask(self, text: str, default: str | None) -> str:
        return self.answers.pop(0) or default or ""

    def say(self, text: str) -> None:
        self.said.append(text)


class Answering(Checks):
    """AWS, ClearML and etcd as they might be."""

    def region(self, region: str) -> Verdict:
        return Verdict(State.UNKNOWN, "AWS is away")

    def newest_image(self, region: str) -> str | None:
        return "ami-0newest"

    def market(self, market: Any, types: Any, region: str) -> Verdict:
        return Verdict(State.UNKNOWN, "AWS is away")

    def queues(self, api: str, queues: Any) -> Verdict:
        return Verdict(State.UNKNOWN, "ClearML is away")

    def image(self, ami: str, region: str, types: Any = ()) -> Verdict:
        return Verdict(State.WRONG if ami == "ami-0wrong" else State.RIGHT, "it does not exist")

    def instance_types(self, types: Any, region: str) -> Verdict:
        return Verdict(State.UNKNOWN, "AWS is away")

    def subnets(self, subnets: Any, region: str) -> Verdict:
        return Verdict(State.UNKNOWN, "AWS is away")

    def clearml(self, api: str) -> Verdict:
        return Verdict(State.RIGHT, "it answers")

    def etcd(self, endpoints: Any) -> Verdict:
        return Verdict(State.RIGHT, "it answers")


def test_a_wrong_answer_is_asked_again_and_what_could_not_be_checked_is_said_once() -> None:
    desk = Desk(
        "Bad Name",
        "mine",
        "eu-central-1",
        "",
        "",
        "",
        "ami-0wrong",
        "",
        "",
        "",
        "",
        "",
        "10.0.0.5:2379",
        "",
        "",
        "",
        "",
    )
    interview = Interview(desk, desk.say)
    config, _ = ask_config(interview, Given(), Known(), Answering())
    assert config["cluster"] == "mine"
    assert config["pools"][0]["ami"] == "ami-0newest"
    assert desk.answers == []
    said = "\n".join(desk.said)
    assert "It must be 1 to 40 of a-z" in said
    assert "That is not right: it does not exist" in said
    assert said.count("AWS is away") == 1
    assert interview.unchecked == ["region", "types", "market", "subnets", "queues"]


def test_without_a_terminal_what_a_check_finds_wrong_is_a_mistake() -> None:
    interview = Interview(None, lambda _: None)
    ask_config(interview, Given(**{**vars(LEAST), "ami": "ami-0wrong"}), Known(), Answering())
    with pytest.raises(ConfigError, match="--ami ami-0wrong: it does not exist"):
        interview.refuse_wrong()


def test_nothing_is_said_of_how_a_type_is_sold_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {
        "c5.large": {"SupportedUsageClasses": ["on-demand", "spot"]},
        "p9.huge": {"SupportedUsageClasses": ["on-demand"]},
    }
    monkeypatch.setattr("scaler_plugin.wizard.checks.find_type", lambda type_, account: described.get(type_))
    checks = Checks()

    def verdict(*types: str) -> State | None:
        found = checks.market(Market.SPOT, types, "eu-central-1")
        return found.state if found else None

    assert verdict("c5.large") is State.RIGHT
    assert verdict("c9z.xlarge") is None
    assert verdict("c5.large", "c9z.xlarge") is None
    assert verdict("c9z.xlarge", "p9.huge") is State.WRONG
    said: list[str] = []
    interview = Interview(None, said.append)
    question = Question(
        "--market",
        "spot or on-demand",
        QUEUE,
        None,
        lambda _: checks.market(Market.SPOT, ["c9z.xlarge"], "eu-central-1"),
    )
    assert interview.answer(question, "spot") == "spot"
    assert said == []
    assert interview.unchecked == []
