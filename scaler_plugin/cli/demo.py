"""``scaler-sidecar demo``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from scaler_plugin.cli.options import delay_option, duration_option

#: Where no terminal says how wide it is, nothing shall be cut off.
LOG_WIDTH = 160


def demo(
    tasks: Annotated[int, typer.Option("--tasks", min=1, max=1000, help="How many tasks to enqueue.")] = 3,
    task_seconds: Annotated[
        int, typer.Option("--task-seconds", min=1, max=86400, help="How long each task runs, in seconds.")
    ] = 5,
    idle_timeout: Annotated[
        str, typer.Option("--idle-timeout", metavar="DURATION", help="When idle nodes retire, such as 10s.")
    ] = "10s",
    boot_delay: Annotated[
        str, typer.Option("--boot-delay", metavar="DURATION", help="How long an instance stays pending, such as 2s.")
    ] = "2s",
    kill_leader: Annotated[
        bool, typer.Option("--kill-leader", help="SIGKILL the leader's sidecar half-way; another node takes over.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end, and nothing else, on stdout.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folder with all logs, consoles and server states afterwards.")
    ] = False,
    etcd: Annotated[
        str | None, typer.Option("--etcd", metavar="HOST:PORT,…", help="A real etcd instead of the embedded one.")
    ] = None,
    clearml_host: Annotated[
        str | None,
        typer.Option(
            "--clearml-host",
            metavar="URL",
            help="A real ClearML API server; credentials in CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY.",
        ),
    ] = None,
    ec2_endpoint: Annotated[
        str | None,
        typer.Option("--ec2-endpoint", metavar="URL", help="Another EC2 endpoint, such as another local cloud's."),
    ] = None,
) -> None:
    """Watch a cluster's whole life on this machine: no AWS account, no ClearML server needed.

    It takes half a minute on an idle machine of two cores, and longer on a busy one.

    One standby sidecar is started, and a few tasks are put into two queues. The sidecar leads, launches instances (local
    processes here) for the tasks; their agents run them; idle instances end themselves. Everything is a real process on
    loopback: etcd, an EC2 double, a ClearML API, sidecars and clearml-agents. Nothing stays behind.

    Exit code 0 if every task completed and no instance is left, 1 if not.
    """
    from rich.console import Console  # noqa: PLC0415

    from scaler_plugin.localcloud.demo.play import DemoOptions, play  # noqa: PLC0415
    from scaler_plugin.localcloud.demo.screen import Lines, Picture  # noqa: PLC0415
    from scaler_plugin.localcloud.interruption import Interrupted, Interruption  # noqa: PLC0415
    from scaler_plugin.observability.logs import configure_logs  # noqa: PLC0415

    interruption = Interruption()
    interruption.listen()
    configure_logs(quiet=True)
    options = DemoOptions(
        tasks=tasks,
        task_seconds=task_seconds,
        idle_timeout=duration_option("--idle-timeout", idle_timeout),
        boot_delay_s=delay_option("--boot-delay", boot_delay),
        kill_leader=kill_leader,
        keep=keep,
        etcd=etcd,
        clearml_host=clearml_host,
        ec2_endpoint=ec2_endpoint,
    )
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=LOG_WIDTH)
    try:
        with ExitStack() as stack:
            audience = stack.enter_context(Picture(console).shown()) if console.is_terminal else Lines(console)
            outcome = play(options, interruption, audience)
    except Interrupted as interrupted:
        raise typer.Exit(interrupted.exit_code) from None
    if as_json:
        sys.stdout.write(outcome.report.to_json() + "\n")
        sys.stdout.flush()
    else:
        outcome.report.show(console)
    if outcome.folder:
        typer.echo(f"Kept: {outcome.folder}", err=as_json)
    if outcome.interrupted is not None:
        raise typer.Exit(outcome.interrupted.exit_code)
    raise typer.Exit(0 if outcome.report.ok else 1)
