"""``scaler-sidecar localcloud``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from scaler_plugin.cli.options import delay_option

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="A whole cloud on this machine, to play with."
)


@app.callback()
def localcloud() -> None:
    """A whole cloud on this machine, to play with."""


@app.command()
def up(
    etcd_port: Annotated[int, typer.Option("--etcd-port", min=0, max=65535, help="0 takes a free one.")] = 0,
    ec2_port: Annotated[int, typer.Option("--ec2-port", min=0, max=65535, help="0 takes a free one.")] = 0,
    clearml_port: Annotated[int, typer.Option("--clearml-port", min=0, max=65535, help="0 takes a free one.")] = 0,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Your own scaler.yaml instead of the small default one."),
    ] = None,
    boot_delay: Annotated[
        str, typer.Option("--boot-delay", metavar="DURATION", help="How long an instance stays pending, such as 2s.")
    ] = "2s",
) -> None:
    """Run etcd, EC2 with machines and a ClearML API on loopback until interrupted. No sidecar: that is your part.

    Prints one `export NAME=value` line for each setting that a client needs, then `READY`. In another shell, paste the exports and
    start a leader:

        scaler-sidecar run --standby

    From then on a task in the queue `demo-cpu` or `demo-gpu`, which exist already, gets a worker. `scaler-sidecar status` shows the
    cluster; boto3, the AWS command line and the ClearML SDK work with the same exports.

    With --config, the file's etcd, clearml and aws.endpoint_url settings are left out in favour of the local parts, and its AMIs
    exist; subnets, security groups, key pairs and instance profiles only do if you create them in the local EC2.
    """
    from scaler_plugin.config.load import load_file  # noqa: PLC0415
    from scaler_plugin.localcloud.default_config import default_config, localised  # noqa: PLC0415
    from scaler_plugin.localcloud.interruption import Interrupted, Interruption  # noqa: PLC0415
    from scaler_plugin.localcloud.world import World, WorldOptions  # noqa: PLC0415
    from scaler_plugin.observability.logs import configure_logs  # noqa: PLC0415

    interruption = Interruption()
    interruption.listen()
    configure_logs()
    options = WorldOptions(
        config=localised(load_file(config)) if config else default_config(),
        boot_delay_s=delay_option("--boot-delay", boot_delay),
        etcd_port=etcd_port,
        ec2_port=ec2_port,
        clearml_port=clearml_port,
    )
    try:
        with World(options, interruption) as world:
            world.create_queues()
            for name, value in world.exports().items():
                typer.echo(f"export {name}={shlex.quote(value)}")
            typer.echo("READY")
            interruption.wait()
    except Interrupted:
        return
