"""``scaler-sidecar init``: write a first scaler.yaml, or read the one of ClearML's own autoscaler."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaler_plugin.cli.wrapping import fitted
from scaler_plugin.errors import ConfigError, HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scaler_plugin.importing.translate import Imported
    from scaler_plugin.wizard.first_config import Surroundings
    from scaler_plugin.wizard.interview import Interview
    from scaler_plugin.wizard.questions import Given, Known
    from scaler_plugin.wizard.what_is_next import Step


def _option(name: str, text: str, metavar: str = "TEXT") -> Any:
    return typer.Option(name, metavar=metavar, help=text)


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write.")] = Path("scaler.yaml"),
    source: Annotated[
        Path | None,
        _option(
            "--from", "An aws_autoscaler.yaml, or the JSON of an autoscaler task: what it says is taken over.", "FILE"
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing: take the options, and the defaults for the rest.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    checks: Annotated[
        bool, typer.Option("--checks/--no-checks", help="Look answers up at AWS, ClearML and etcd.")
    ] = True,
    cluster: Annotated[str | None, _option("--cluster", "The cluster's name.", "NAME")] = None,
    region: Annotated[str | None, _option("--region", "AWS region.", "NAME")] = None,
    queues: Annotated[str | None, _option("--queues", "ClearML queues, the most urgent first.", "NAME,…")] = None,
    types: Annotated[str | None, _option("--types", "EC2 instance types, the preferred first.", "TYPE,…")] = None,
    market: Annotated[str | None, _option("--market", "`spot` or `on-demand`.")] = None,
    ami: Annotated[
        str | None, _option("--ami", "The image with agent and sidecar; with --from, for every pool.", "IMAGE")
    ] = None,
    max_instances: Annotated[str | None, _option("--max-instances", "At most so many instances.", "N")] = None,
    subnets: Annotated[str | None, _option("--subnets", "Subnets; empty for the default ones.", "ID,…")] = None,
    docker_image: Annotated[
        str | None, _option("--docker-image", "Image in which tasks run, or `none`.", "IMAGE")
    ] = None,
    git_user: Annotated[str | None, _option("--git-user", "Git user for private repositories.", "NAME")] = None,
    etcd: Annotated[str | None, _option("--etcd", "etcd's endpoints, as instances reach them.", "HOST:PORT,…")] = None,
    etcd_login: Annotated[
        str | None, _option("--etcd-login", "How nodes prove themselves to etcd: `certificate`, `password`, `nothing`.")
    ] = None,
    etcd_identity: Annotated[
        Path | None,
        _option("--etcd-identity", "For the check alone: a folder under clients/ that `etcd certs` made.", "FOLDER"),
    ] = None,
    clearml_api: Annotated[str | None, _option("--clearml-api", "ClearML's API server.", "URL")] = None,
    zero: Annotated[
        str | None, _option("--zero", "What is left when nothing is to do: `probe`, `standby`, `keep_one`.")
    ] = None,
    secrets: Annotated[
        str | None, _option("--secrets", "Where secrets are kept: `ssm`, `secretsmanager`, `file`, `env`.")
    ] = None,
    stack: Annotated[bool, typer.Option("--stack/--no-stack", help="Whether `bootstrap` sets the account up.")] = True,
) -> None:
    """Write a configuration to begin with, every key explained; asks what it cannot find out.

    Answers are checked against AWS, ClearML and etcd where they can be reached, and what could not be checked is said. No secret is
    asked for or stored: the file has references, and the commands that fill them are printed. With --from, each key of the other
    file is accounted for.
    """
    from scaler_plugin.wizard.interview import Interview  # noqa: PLC0415
    from scaler_plugin.wizard.questions import Given  # noqa: PLC0415

    _refuse_existing(file, force)
    given = Given(
        cluster, region, queues, types, market, ami, max_instances, subnets, docker_image, git_user, etcd, etcd_login,
        clearml_api, zero, secrets, stack,
    )  # fmt: skip
    if not yes and not sys.stdin.isatty():
        raise ConfigError("There is no terminal to ask on; give --yes, and options for what has no default.")
    interview = Interview(None if yes else _Terminal(), _say, checks)
    config, around = _answers(interview, given, source, etcd_identity)
    _write(file, config)
    if interview.unchecked:
        _say(f"Not checked: {', '.join(interview.unchecked)}.")
    _say_what_is_next(file, config, around)


class _Terminal:
    def ask(self, text: str, default: str | None) -> str:
        return str(typer.prompt(text, default=default, show_default=bool(default)))

    def say(self, text: str) -> None:
        _say(text)


def _say(text: str) -> None:
    typer.echo(fitted(text, sys.stdout))


def _answers(
    interview: Interview, given: Given, source: Path | None, identity: Path | None
) -> tuple[dict[str, Any], Surroundings]:
    from scaler_plugin.wizard.checks import Checks  # noqa: PLC0415
    from scaler_plugin.wizard.questions import ask_config, complete_imported  # noqa: PLC0415

    checks = Checks(identity)
    known = _known()
    if source is None:
        config, around = ask_config(interview, given, known, checks)
    else:
        imported = _import(source, given)
        config, around = complete_imported(interview, given, known, checks, imported.config)
    interview.refuse_wrong()
    return config, around


def _import(source: Path, given: Given) -> Imported:
    from scaler_plugin.config.secret_ref import SecretSource  # noqa: PLC0415
    from scaler_plugin.importing.source import read_source  # noqa: PLC0415
    from scaler_plugin.importing.translate import Wish, cluster_of, translate  # noqa: PLC0415
    from scaler_plugin.wizard.secret_places import SecretPlaces  # noqa: PLC0415

    wish = Wish(given.cluster, given.ami, given.stack)
    found = read_source(source)
    try:
        kept = SecretSource(given.secrets or SecretSource.SSM.value)
    except ValueError:
        raise ConfigError("--secrets: it must be one of ssm, secretsmanager, file, env. Nothing was written.") from None
    imported = translate(found, wish, SecretPlaces(kept, cluster_of(found, wish)))
    _show_report(imported)
    if not imported.config["pools"]:
        raise ConfigError(
            f"{source} describes no pool that could be used; nothing was written. The lines above say why."
        )
    return imported


def _show_report(imported: Imported) -> None:
    from scaler_plugin.importing.report import Outcome  # noqa: PLC0415

    titles = {
        Outcome.TRANSLATED: "Translated",
        Outcome.SECRET: "Secrets, which are not copied",
        Outcome.NOT_TRANSLATED: "Not translated",
        Outcome.NOT_NEEDED: "Not needed",
    }
    for outcome, title in titles.items():
        lines = [line for line in imported.lines if line.outcome is outcome]
        if lines:
            typer.echo(f"{title}:")
            for line in lines:
                _say(f"  {line.key}: {line.text}.")


def _refuse_existing(file: Path, force: bool) -> None:
    if file.exists() and not force:
        raise ConfigError(f"{file} exists, and nothing was changed; name another file, or give --force to replace it.")
    if not file.parent.is_dir():
        raise ConfigError(f"{file} cannot be written: there is no folder {file.parent}.")


def _known() -> Known:
    """Defaults from this machine's own settings."""
    from scaler_plugin.wizard.questions import Known  # noqa: PLC0415

    import boto3  # noqa: PLC0415  isort: skip

    try:
        region = boto3.session.Session().region_name
    except Exception:  # a broken ~/.aws/config is no reason not to ask
        region = None
    return Known(region, os.environ.get("CLEARML_API_HOST"), os.environ.get("SCALER_ETCD"))


def _write(file: Path, config: Mapping[str, Any]) -> None:
    from scaler_plugin.config.load import parse_yaml  # noqa: PLC0415
    from scaler_plugin.wizard.commented import commented_yaml  # noqa: PLC0415

    text = commented_yaml(config)
    parse_yaml(text, where="What would be written")
    scratch = file.with_name(f".{file.name}.new")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(file)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise HostError(f"{file} could not be written: {error.strerror}. Check the folder.") from error
    typer.echo(f"Wrote {file}.")


def _say_what_is_next(file: Path, config: Mapping[str, Any], around: Surroundings) -> None:
    """A command stands on a line of its own, whole, for people to copy."""
    from scaler_plugin.wizard.what_is_next import etcd_certificates, next_steps, secrets_to_store  # noqa: PLC0415

    certificates = etcd_certificates(around)
    if certificates:
        typer.echo("\nFirst, unless etcd has its certificates already (docs/etcd.md goes on from there):\n")
        typer.echo(f"  {certificates}")
    typer.echo("\nSecrets to store before the first node starts:\n")
    secrets = secrets_to_store(config, around)
    _show_steps(secrets)
    if any("/dev/stdin" in (step.command or "") for step in secrets):
        typer.echo("\n  Call one after the other. Where it says /dev/stdin, type the secret, Enter, and Ctrl-D.")
    typer.echo("\nNext:\n")
    _show_steps(next_steps(shlex.quote(str(file)), around))


def _show_steps(steps: list[Step]) -> None:
    for step in steps:
        if step.command is None:
            _say(f"  {step.text}")
        else:
            typer.echo(f"  # {step.text}")
            typer.echo(f"  {step.command}")
