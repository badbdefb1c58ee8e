"""The original's configuration as ours. Pure: the file's data in; a configuration's data and a line for each of its keys out.

Guarantees: every key gets a line; no secret is copied (a reference stands for it, and its line says where to put the secret); what
looks like a secret in a script or a piece of ``clearml.conf`` is cut out with its line; what our schema refuses is left out, with
the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scaler_plugin.config.masking import mask_secrets
from scaler_plugin.config.schema import AwsConfig
from scaler_plugin.importing.fitting import misfit
from scaler_plugin.importing.plain import image_and_arguments, minutes, name_of, tags
from scaler_plugin.importing.pools import tell_queues, translate_pools, usable
from scaler_plugin.importing.report import Line, Part, Report
from scaler_plugin.importing.resources import set_profile, tags_that_fit
from scaler_plugin.importing.scripts import translate_scripts
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
    shared = {**_timing(hyper), **_docker(hyper), **_git(hyper, places), **translate_scripts(more)}
    if "agent_lines" in shared:
        lines = shared.pop("agent_lines")
        shared["extra_clearml_conf"] = lines + shared.get("extra_clearml_conf", "")
    found = translate_pools(more, wish.ami, wish.stack, config.get("aws", {}).get("region"))
    pools = found.pools
    _profiles(hyper, [pool.data for pool in pools], wish)
    common_tags = _tags(hyper)
    for pool in pools:
        pool.data.update(shared)
        if common_tags:
            pool.data["tags"] = {**common_tags, **pool.data.get("tags", {})}
    config["pools"] = [kept for pool in pools if (kept := usable(pool, report)) is not None]
    tell_queues(more, found, [pool["name"] for pool in config["pools"]])
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
    _region(hyper, config)
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


def _region(hyper: Part, config: dict[str, Any]) -> None:
    key = hyper.key("cloud_credentials_region")
    region = hyper.take("cloud_credentials_region")
    if not region:
        hyper.empty("cloud_credentials_region")
    elif reason := misfit("region", region, AwsConfig):
        hyper.report.not_translated(key, f"aws.{reason}")
    else:
        config["aws"] = {"region": str(region)}
        hyper.report.translated(key, f"aws.region: {region}")


def _timing(hyper: Part) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, ours in (("max_idle_time_min", "idle_timeout"), ("max_spin_up_time_min", "startup_timeout")):
        value = hyper.take(name)
        span = minutes(value)
        reason = misfit(ours, str(span)) if span is not None else None
        if reason:
            hyper.report.not_translated(hyper.key(name), f"{reason}; it keeps its default, 10m")
        elif span is not None:
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
    if reason := misfit("docker_image", image):
        hyper.report.not_translated(key, reason)
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
    git = {"user": str(user), "password": places.reference("git-password")}
    refused = misfit("git", git) if user else None
    missing = "git_user is refused" if refused else "" if user else "git_user is empty"
    if not password:
        hyper.empty("git_pass")
    elif missing:
        hyper.report.secret(
            hyper.key("git_pass"), f"not copied, and no pools[].git was written, because {missing}; add both by hand"
        )
    else:
        hyper.report.secret(
            hyper.key("git_pass"),
            f"not copied: pools[].git.password: {git['password']}. How to store it is said at the end",
        )
    if not user:
        hyper.empty("git_user")
        return {}
    if refused:
        hyper.report.not_translated(hyper.key("git_user"), refused)
        return {}
    hyper.report.translated(hyper.key("git_user"), f"pools[].git.user: {user}")
    return {"git": git}


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
    kept = tags_that_fit(found, hyper.key("tags"), hyper.report)
    if kept:
        hyper.report.translated(hyper.key("tags"), f"pools[].tags: {len(kept)} of them")
    return kept
