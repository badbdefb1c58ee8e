"""The command ``scaler-sidecar``: version, help, and the commands of :mod:`scaler_plugin.cli.commands`."""

from __future__ import annotations

from typing import Annotated

import typer

from scaler_plugin import __version__
from scaler_plugin.cli.commands import COMMANDS
from scaler_plugin.cli.lazy_group import LazyGroup


class _Commands(LazyGroup):
    entries = COMMANDS


# Locals in tracebacks could hold secrets, and rich's tracebacks need rich.
app = typer.Typer(cls=_Commands, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scaler-sidecar {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def scaler_sidecar(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """EC2 workers for ClearML queues, without a service worker.

    Every instance carries a sidecar. The sidecars elect a leader, which launches instances for waiting tasks; each sidecar
    ends its own instance when it has been idle for long enough.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 etcd, 4 ClearML, 5 AWS cannot be used.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
