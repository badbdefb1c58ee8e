"""``scaler-sidecar health``: whether this machine is fit to take tasks; with ``--gate``, the boot's step that decides on it."""

from __future__ import annotations

from typing import Annotated

import typer

from scaler_plugin.errors import ConfigError, HostError


def health(
    gate: Annotated[
        bool,
        typer.Option(
            "--gate", help="Wait up to a minute until the machine is fit; if it isn't, end it, the reason on record."
        ),
    ] = False,
    unfit: Annotated[
        str | None,
        typer.Option(
            "--unfit",
            help="With --gate: do not look; an earlier step of the boot has found this reason.",
            metavar="REASON",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every detail.")] = False,
) -> None:
    """Say whether this machine is fit to take tasks: disk, docker, GPUs, and the pool's own checks.

    Without an option it only looks, once, and changes nothing; exit code 1 means not fit. With `--gate` it is the step between
    `boot` and the start of the agents.
    """
    from scaler_plugin.node.health_gate import (  # noqa: PLC0415
        check_environment,
        equipment,
        health_policy,
        run_gate,
        why_unfit,
    )
    from scaler_plugin.node.hooks import ShellHooks  # noqa: PLC0415
    from scaler_plugin.node.host import LocalHost  # noqa: PLC0415
    from scaler_plugin.node.setup import read_setup, state_dir  # noqa: PLC0415
    from scaler_plugin.node.vitals import VitalSigns  # noqa: PLC0415
    from scaler_plugin.observability.logs import configure_logs  # noqa: PLC0415

    configure_logs(verbose)
    setup = read_setup(state_dir())
    if gate:
        run_gate(setup, ShellHooks(), LocalHost(), known_reason=unfit)
        return
    if unfit is not None:
        raise ConfigError("--unfit goes with --gate: it ends this machine for that reason.")
    reason = why_unfit(VitalSigns(equipment(setup)), health_policy(setup), ShellHooks(), check_environment(setup))
    if reason is not None:
        raise HostError(f"This machine is not fit: {reason}")
    typer.echo("This machine is fit.")
