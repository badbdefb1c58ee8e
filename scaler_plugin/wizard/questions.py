"""The questions of `init`, in order, and what their answers become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaler_plugin.config.pool_schema import GitConfig, PoolConfig
from scaler_plugin.config.rules import Choice, ListOf, Rule, Text
from scaler_plugin.config.schema import ENDPOINT, URL, AwsConfig, ScalerConfig, usual_zero_mode
from scaler_plugin.config.secret_ref import SecretSource
from scaler_plugin.config.section import Section, rule_of
from scaler_plugin.core.model import Market
from scaler_plugin.core.policy import ZeroMode
from scaler_plugin.wizard.checks import Checks
from scaler_plugin.wizard.first_config import (
    CLEARML_HOSTED,
    EtcdLogin,
    FirstPool,
    Surroundings,
    pool_data,
    with_surroundings,
)
from scaler_plugin.wizard.interview import Interview, Question
from scaler_plugin.wizard.secret_places import SecretPlaces


@dataclass(frozen=True)
class Given:
    """The options of the command line; ``None`` is what was not given."""

    cluster: str | None = None
    region: str | None = None
    queues: str | None = None
    types: str | None = None
    market: str | None = None
    ami: str | None = None
    max_instances: str | None = None
    subnets: str | None = None
    docker_image: str | None = None
    git_user: str | None = None
    etcd: str | None = None
    etcd_login: str | None = None
    clearml_api: str | None = None
    zero: str | None = None
    secrets: str | None = None
    stack: bool = True


@dataclass(frozen=True)
class Known:
    """What this machine says about itself: defaults."""

    region: str | None = None
    clearml_api: str | None = None
    etcd: str | None = None


def _rule(section: type[Section], key: str) -> Rule:
    rule = rule_of(section.model_fields[key])
    if rule is None:
        raise TypeError(f"{key} holds a section and cannot be asked for in one answer")
    return rule


def ask_config(interview: Interview, given: Given, known: Known, checks: Checks) -> tuple[dict[str, Any], Surroundings]:
    """Everything, for a first configuration with one pool. Raises ``ConfigError``."""
    cluster = interview.answer(
        Question("--cluster", "A name for the cluster", _rule(ScalerConfig, "cluster"), "clearml"), given.cluster
    )
    region = _ask_region(interview, given, known, checks)
    pool = _ask_pool(interview, given, region, checks)
    config = {"cluster": cluster, "aws": {"region": region}}
    around = ask_surroundings(interview, given, known, checks, cluster, pool.queues)
    config["pools"] = [pool_data(pool, around.places)]
    return with_surroundings(config, around), around


def complete_imported(
    interview: Interview, given: Given, known: Known, checks: Checks, config: Mapping[str, Any]
) -> tuple[dict[str, Any], Surroundings]:
    """What an imported configuration lacks. Raises ``ConfigError``."""
    region = (config.get("aws") or {}).get("region") or _ask_region(interview, given, known, checks)
    pools = [dict(pool) for pool in config["pools"]]
    if any("ami" not in pool for pool in pools):
        types = dict.fromkeys(type_ for pool in pools if "ami" not in pool for type_ in pool["instance_types"])
        ami = _ask_image(interview, given, region, checks, tuple(types))
        pools = [pool if "ami" in pool else {**pool, "ami": ami} for pool in pools]
    queues = tuple(dict.fromkeys(queue for pool in pools for queue in pool["queues"]))
    around = ask_surroundings(interview, given, known, checks, str(config["cluster"]), queues)
    whole = {**config, "aws": {**(config.get("aws") or {}), "region": region}, "pools": pools}
    return with_surroundings(whole, around), around


def ask_surroundings(
    interview: Interview, given: Given, known: Known, checks: Checks, cluster: str, queues: tuple[str, ...]
) -> Surroundings:
    endpoints = interview.answer(
        Question(
            "--etcd",
            "etcd's endpoints, as instances reach them (host:port, …)",
            ListOf(ENDPOINT, "10.0.0.5:2379"),
            known.etcd,
            checks.etcd,
        ),
        given.etcd,
    )
    login = interview.answer(
        Question(
            "--etcd-login",
            "How nodes prove themselves to etcd (certificate, password, nothing)",
            Choice(EtcdLogin),
            EtcdLogin.CERTIFICATE.value,
        ),
        given.etcd_login,
    )
    api = interview.answer(
        Question("--clearml-api", "ClearML's API server", URL, known.clearml_api or CLEARML_HOSTED, checks.clearml),
        given.clearml_api,
    )
    interview.also_check("--queues", lambda: checks.queues(api.rstrip("/"), queues))
    zero = interview.answer(
        Question(
            "--zero",
            "When nothing is to do: probe (nothing runs), standby (a sidecar of yours leads), keep_one",
            Choice(ZeroMode),
            usual_zero_mode(given.stack).value,
        ),
        given.zero,
    )
    source = interview.answer(
        Question("--secrets", "Where secrets are kept (ssm, secretsmanager, file, env)", Choice(SecretSource), "ssm"),
        given.secrets,
    )
    return Surroundings(
        tuple(endpoints), login, api.rstrip("/"), zero.value, given.stack, SecretPlaces(source, cluster)
    )


def _ask_region(interview: Interview, given: Given, known: Known, checks: Checks) -> str:
    question = Question("--region", "AWS region", _rule(AwsConfig, "region"), known.region, checks.region)
    return str(interview.answer(question, given.region))


def _ask_image(interview: Interview, given: Given, region: str, checks: Checks, types: tuple[str, ...]) -> str:
    newest = checks.newest_image(region) if interview.checking and given.ami is None else None
    question = Question(
        "--ami",
        "The image that packer.json baked (ami-…, name:…, resolve:ssm:…)",
        _rule(PoolConfig, "ami"),
        newest,
        lambda ami: checks.image(ami, region, types),
    )
    return str(interview.answer(question, given.ami))


def _ask_pool(interview: Interview, given: Given, region: str, checks: Checks) -> FirstPool:
    queues = interview.answer(
        Question("--queues", "ClearML queues, the most urgent first", _rule(PoolConfig, "queues"), "default"),
        given.queues,
    )
    types = interview.answer(
        Question(
            "--types",
            "EC2 instance types, the preferred first",
            _rule(PoolConfig, "instance_types"),
            "g4dn.xlarge, g5.xlarge",
            lambda types: checks.instance_types(types, region),
        ),
        given.types,
    )
    market = interview.answer(
        Question(
            "--market",
            "spot or on-demand",
            Choice(Market),
            Market.ON_DEMAND.value,
            lambda market: checks.market(market, types, region),
        ),
        given.market,
    )
    ami = _ask_image(interview, given, region, checks, tuple(types))
    most = interview.answer(
        Question("--max-instances", "At most so many instances", _rule(PoolConfig, "max_instances"), "4"),
        given.max_instances,
    )
    subnets = interview.answer(
        Question(
            "--subnets",
            "Subnets (subnet-…, …), or nothing for the default ones",
            _rule(PoolConfig, "subnets"),
            "",
            lambda subnets: checks.subnets(subnets, region),
        ),
        given.subnets,
    )
    image = interview.answer(
        Question(
            "--docker-image",
            "Docker image in which tasks run, or none",
            _rule(PoolConfig, "docker_image"),
            "none",
        ),
        given.docker_image,
    )
    user = interview.answer(
        Question(
            "--git-user", "Git user for private repositories, or nothing", _OrNothing(_rule(GitConfig, "user")), ""
        ),
        given.git_user,
    )
    return FirstPool(tuple(queues), tuple(types), market.value, ami, most, tuple(subnets), image or "none", user)


@dataclass(frozen=True)
class _OrNothing(Text):
    """The rule's text, or an empty answer."""

    words_: Any = ""

    @property
    def words(self) -> str:
        return str(self.words_.words)

    def accept(self, value: object) -> str:
        return str(self.words_.accept(value)) if value else ""
