"""The original's configuration as ours. Pure: the file's data in; a configuration's data and a line for each of its keys out.

Guarantees: every key gets a line; no secret is copied (a reference stands for it, and its line says where to put the secret); what
looks like a secret in a script or a piece of ``clearml.conf`` is cut out with its line; what our schema refuses is left out, with
the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from scaler_plugin.config.masking import mask_secrets
from scaler_plugin.config.pool_schema import PoolConfig
from scaler_plugin.config.problems import problems_of
from scaler_plugin.config.section import rule_of, section_of
from scaler_plugin.importing.plain import image_and_arguments, minutes, name_of, tags, without_secrets
from scaler_plugin.importing.report import Line, Part, Report
from scaler_plugin.importing.resources import set_profile, translate_machine
from scaler_plugin.importing.source import Source
from scaler_plugin.wizard.secret_places import SecretPlaces

_DEFAULT_PREFIX = "dynamic-aws"


@dataclass(frozen=True)
class Wish:
    """``cluster`` and ``ami`` replace the file's; with ``stack`` the pools' rights come from `bootstrap`."""

    cluster: str | None = None
    ami: str | None = None
    stack: bool = False


@dataclass(frozen=True)
class Imported:
    """``config`` has what the file could tell: a configuration, but for etcd and ClearML's address."""

    config: dict[str, Any]
    lines: tuple[Line, ...]


def cluster_of(source: Source, wish: Wish) -> str:
    """The cluster's name: as wished, else the original's prefix of worker ids."""
    return wish.cluster or name_of(str(source.hyper_params.get("workers_prefix") or _DEFAULT_PREFIX))


def translate(source: Source, wish: Wish, places: SecretPlaces) -> Imported:
    """Never raises for what the file says: what cannot be used has a line that says why."""
    report = Report()
    hyper = Part(source.hyper_params_path, source.hyper_params, report)
    more = Part(source.configurations_path, source.configurations, report)
    config: dict[str, Any] = {"cluster": cluster_of(source, wish)}
    _cluster(hyper, config, wish)
    shared = {**_timing(hyper), **_docker(hyper), **_git(hyper, places), **_scripts(more)}
    if "agent_lines" in shared:
        lines = shared.pop("agent_lines")
        shared["extra_clearml_conf"] = lines + shared.get("extra_clearml_conf", "")
    pools = _pools(more, wish)
    _profiles(hyper, pools, wish)
    common_tags = _tags(hyper)
    config["pools"] = [
        {**pool, **shared, **({"tags": {**common_tags, **pool.get("tags", {})}} if common_tags else {})}
        for pool in pools
    ]
    hyper.close()
    more.close()
    for other in source.others:
        report.not_translated(other, "this part of the file is not known here")
    return Imported(config, tuple(report.lines))


def _cluster(hyper: Part, config: dict[str, Any], wish: Wish) -> None:
    report = hyper.report
    prefix = hyper.take("workers_prefix")
    if hyper.has("workers_prefix"):
        changed = "" if prefix == config["cluster"] else ", as names are made of a-z, 0-9 and -"
        reason = f"cluster: {config['cluster']}{changed}; worker ids begin with it"
        if wish.cluster:
            report.not_needed(hyper.key("workers_prefix"), f"cluster: {wish.cluster} was given instead")
        else:
            report.translated(hyper.key("workers_prefix"), reason)
    if region := hyper.take("cloud_credentials_region"):
        config["aws"] = {"region": str(region)}
        report.translated(hyper.key("cloud_credentials_region"), f"aws.region: {region}")
    else:
        hyper.empty("cloud_credentials_region")
    for name in ("cloud_credentials_key", "cloud_credentials_secret", "cloud_credentials_token"):
        if hyper.take(name):
            report.secret(
                hyper.key(name),
                "not copied: nodes act with their instance's role, people with boto3's own chain. Delete the key at AWS once "
                "nothing else uses it",
            )
        else:
            hyper.empty(name)
    for name in ("use_credentials_chain", "use_iam_instance_profile"):
        hyper.take(name)
        if hyper.has(name):
            report.not_needed(hyper.key(name), "credentials always come from boto3's chain, on a node from its role")
    provider = hyper.take("cloud_provider")
    if provider and str(provider).upper() != "AWS":
        report.not_translated(hyper.key("cloud_provider"), f"{provider} is not AWS; only AWS is launched here")
    elif hyper.has("cloud_provider"):
        report.not_needed(hyper.key("cloud_provider"), "it is always AWS")


def _timing(hyper: Part) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, ours in (("max_idle_time_min", "idle_timeout"), ("max_spin_up_time_min", "startup_timeout")):
        value = hyper.take(name)
        span = minutes(value)
        if span is not None:
            found[ours] = str(span)
            hyper.report.translated(hyper.key(name), f"{ours}: {span}")
        elif hyper.has(name):
            hyper.report.not_translated(
                hyper.key(name),
                f"it is no number of minutes above 0; {ours} keeps its default, 10m (`never` waits for ever)",
            )
    if (value := hyper.take("polling_interval_time_min")) is not None:
        span = minutes(value)
        keep = f"; to keep it, write poll_interval: {span}" if span else ""
        hyper.report.not_translated(
            hyper.key("polling_interval_time_min"),
            f"tasks would wait that long: the leader looks every 2 s, with one call{keep}",
        )
    return found


def _docker(hyper: Part) -> dict[str, Any]:
    text = hyper.take("default_docker_image")
    key = hyper.key("default_docker_image")
    if not text:
        if hyper.has("default_docker_image"):
            hyper.report.translated(key, "docker_image: none; tasks run in virtual environments")
        return {"docker_image": "none"}
    try:
        image, arguments = image_and_arguments(str(text))
    except ValueError:
        hyper.report.not_translated(key, "its quotes do not close; write docker_image into the pools")
        return {}
    if not arguments:
        hyper.report.translated(key, f"docker_image: {image}")
        return {"docker_image": image}
    quoted = ", ".join(f'"{argument}"' for argument in arguments if '"' not in argument)
    line = f"agent.extra_docker_arguments: [{quoted}]\n"
    if mask_secrets(" ".join(arguments)) != " ".join(arguments) or any('"' in argument for argument in arguments):
        hyper.report.not_translated(
            key,
            f"docker_image: {image}; its arguments hold what looks like a secret, or quotes, and were left out: set "
            "agent.extra_docker_arguments in clearml.conf of the image",
        )
        return {"docker_image": image}
    hyper.report.translated(key, f"docker_image: {image}, its arguments in extra_clearml_conf")
    return {"docker_image": image, "agent_lines": line}


def _git(hyper: Part, places: SecretPlaces) -> dict[str, Any]:
    user, password = hyper.take("git_user"), hyper.take("git_pass")
    name = "git-password"
    if password:
        hyper.report.secret(
            hyper.key("git_pass"),
            f"not copied: pools[].git.password: {places.reference(name)}. How to store it is said at the end",
        )
    else:
        hyper.empty("git_pass")
    if not user:
        hyper.empty("git_user")
        return {}
    hyper.report.translated(hyper.key("git_user"), f"pools[].git.user: {user}")
    return {"git": {"user": str(user), "password": places.reference(name)}}


def _scripts(more: Part) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, ours in (
        ("extra_vm_bash_script", "init_script"),
        ("extra_clearml_conf", "extra_clearml_conf"),
        ("extra_trains_conf", "extra_clearml_conf"),
    ):
        text = more.take(name)
        if not text or not str(text).strip():
            more.empty(name)
            continue
        kept, dropped = without_secrets(str(text))
        found[ours] = found.get(ours, "") + kept
        more.report.translated(more.key(name), f"pools[].{ours}{_script_advice(ours, kept)}")
        if dropped:
            numbers = ", ".join(map(str, dropped))
            more.report.secret(
                more.key(name),
                f"line {numbers} looks like a secret and was left out. Configurations are stored in clear: let the script fetch it "
                "at boot with the instance's role, or put it into clearml.conf of the image; then read what is left once more",
            )
    return found


def _script_advice(ours: str, text: str) -> str:
    if ours != "init_script":
        return ""
    advice = "; root runs it with /bin/sh -e before the agent starts: a command that fails ends the start"
    if "export " in text:
        advice += "; its exports do not reach the agent: put what tasks need into agent.extra_docker_arguments"
    return advice


def _profiles(hyper: Part, pools: list[dict[str, Any]], wish: Wish) -> None:
    arn, name = hyper.take("iam_arn"), hyper.take("iam_name")
    for key, value in (("iam_arn", arn), ("iam_name", name)):
        if not value:
            hyper.empty(key)
        elif key == "iam_name" and arn:
            hyper.report.not_needed(hyper.key(key), "iam_arn names the profile already")
        else:
            pool: dict[str, Any] = {}
            set_profile(pool, str(value), hyper.key(key), hyper, wish.stack)
            for one in pools:
                one.update(
                    {**pool, **({"instance_profile": one["instance_profile"]} if "instance_profile" in one else {})}
                )


def _tags(hyper: Part) -> dict[str, str]:
    given = hyper.take("tags")
    if not given:
        hyper.empty("tags")
        return {}
    found = tags(given)
    if found is None:
        hyper.report.not_translated(
            hyper.key("tags"), "it is not of the form name=value, name=value; write tags into the pools"
        )
        return {}
    hyper.report.translated(hyper.key("tags"), f"pools[].tags: {len(found)} of them")
    return found


def _pools(more: Part, wish: Wish) -> list[dict[str, Any]]:
    report = more.report
    resources, queues = more.take("resource_configurations"), more.take("queues")
    if not isinstance(resources, Mapping):
        report.not_translated(more.key("resource_configurations"), "there is none; write the pools yourself")
        resources = {}
    if not isinstance(queues, Mapping):
        report.not_translated(
            more.key("queues"), "there is none, so that no pool has a queue; write the pools yourself"
        )
        queues = {}
    names: dict[str, str] = {}
    for resource in map(str, resources):
        names[resource] = name_of(resource, list(names.values()))
    # In the order in which queues list them, which is the original's order of preference.
    served: dict[str, dict[str, int]] = {}
    for queue, entries in queues.items():
        _queue(more, str(queue), entries, names, served)
    pools: list[dict[str, Any]] = []
    for resource, limits in served.items():
        path, described = more.key(f"resource_configurations.{resource}"), resources[resource]
        if not isinstance(described, Mapping):
            report.not_translated(path, "it is no section of keys and values; write the pool yourself")
            continue
        report.translated(path, f"pool {names[resource]}")
        machine = translate_machine(Part(path, described, report), wish.ami, wish.stack)
        pool = {"name": names[resource], "queues": list(limits), **machine, "max_instances": sum(limits.values())}
        pools.append({key: value for key, value in pool.items() if _fits(key, value, path, report)})
    for resource in names.keys() - served.keys():
        report.not_translated(
            more.key(f"resource_configurations.{resource}"), "no queue uses it, so there is no pool for it"
        )
    return pools


def _fits(key: str, value: Any, path: str, report: Report) -> bool:
    """Whether our schema takes the pool's value; a line if not."""
    field = PoolConfig.model_fields[key]
    rule, section = rule_of(field), section_of(field)
    try:
        if rule is not None:
            rule.accept(value)
        elif section is not None:
            section.model_validate(value)
    except PydanticCustomError as error:
        report.not_translated(path, f"{key} was left out: it must be {(error.context or {})['allowed']}")
        return False
    except ValidationError as error:
        # pydantic's own text would repeat values.
        problems = "; ".join(
            f"{problem.path} must be {problem.allowed}" for problem in problems_of(error, section or PoolConfig, value)
        )
        report.not_translated(path, f"{key} was left out: {problems}")
        return False
    return True


def _queue(more: Part, queue: str, entries: Any, names: Mapping[str, str], served: dict[str, dict[str, int]]) -> None:
    key = more.key(f"queues.{queue}")
    said = []
    for entry in entries if isinstance(entries, list | tuple) else ():
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            more.report.not_translated(key, "an entry of it is not [resource, number]; add it to the pool's queues")
            continue
        resource, count = str(entry[0]), str(entry[1])
        if resource not in names:
            more.report.not_translated(key, f"it names the resource {resource}, which the file does not describe")
        elif not count.isdigit() or int(count) < 1:
            more.report.not_translated(key, f"at most {count} instances of {resource} means none; it was left out")
        else:
            served.setdefault(resource, {})[queue] = int(count)
            said.append(f"pool {names[resource]}, max_instances: {count}")
    if said:
        more.report.translated(key, "; ".join(said))
    elif not entries:
        more.report.not_translated(key, "no resource serves it, so no pool does")
