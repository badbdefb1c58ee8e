"""What the commands that touch the account begin with: the file, the account that it is for, and what was found there."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.bootstrapping.deployment import Deployment
from scaler_plugin.bootstrapping.requirements import check_requirements
from scaler_plugin.bootstrapping.template import stack_name
from scaler_plugin.cli.wrapping import fitted
from scaler_plugin.config.load import load_file
from scaler_plugin.core.model import PoolName
from scaler_plugin.errors import ConfigError

if TYPE_CHECKING:
    from scaler_plugin.bootstrapping.survey import Survey
    from scaler_plugin.config.schema import ScalerConfig

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="The configuration, usually scaler.yaml.", show_default=False)
]
PoolOption = Annotated[
    str | None, typer.Option("--pool", metavar="NAME", help="The pool. Otherwise the first of the configuration.")
]


def start(file: Path) -> tuple[ScalerConfig, Account]:
    """Raises ``ConfigError`` for a configuration that does not go with a stack."""
    config = load_file(file)
    stack_name(config)
    check_requirements(config)
    return config, Account(config.aws)


def deployment_of(config: ScalerConfig, account: Account) -> Deployment:
    return Deployment(account, stack_name(config), typer.echo)


def show_survey(config: ScalerConfig, surveyed: Survey, left_out: Collection[str] = ()) -> None:
    """Whose account it is by whose rights, and what was found; ``left_out`` are warnings that the caller refuses for."""
    by = f", as {surveyed.caller}" if surveyed.caller else ""
    where = f" (credentials from {surveyed.credentials})" if surveyed.credentials else ""
    place = f"Cluster {config.cluster} in account {surveyed.account}, region {surveyed.region}{by}{where}."
    for line in (place, *surveyed.notes):
        typer.echo(fitted(line, sys.stdout))
    for warning in surveyed.warnings:
        if warning not in left_out:
            typer.echo(fitted(f"Warning: {warning}", sys.stdout))


def chosen_pool(config: ScalerConfig, name: str | None) -> PoolName:
    if name is None:
        return PoolName(config.pools[0].name)
    if config.pool(name) is None:
        names = ", ".join(pool.name for pool in config.pools)
        raise ConfigError(f"The configuration has no pool {name}; it has {names}.")
    return PoolName(name)
