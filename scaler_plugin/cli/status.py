"""``scaler-sidecar status``: the cluster at a glance, as etcd has it."""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import Annotated

import typer

from scaler_plugin.cli.options import ClusterOption, ConfigOption, EtcdOption, OpenCluster, open_cluster
from scaler_plugin.errors import ConfigError
from scaler_plugin.status.make_report import make_report
from scaler_plugin.status.reading import read_cluster

#: Width where nobody looks at a terminal: everything fits, ids are whole, and `grep` finds them.
PIPED_WIDTH = 200


def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, whose format is stable (docs/status.md).")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay and redraw each second until Ctrl-C; outlives etcd's absence.")
    ] = False,
    list_all: Annotated[
        bool, typer.Option("--all", "-a", help="List every node; otherwise busy ones are summed up above 40 nodes.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show more of the console output that failed starts left behind.")
    ] = False,
    etcd: EtcdOption = None,
    cluster: ClusterOption = None,
    config: ConfigOption = None,
) -> None:
    """Show who leads, what is wrong and what to do, what waits and why, pools, launches and nodes.

    Reads etcd once and nothing else: no rights at EC2 or ClearML are needed, and at AWS only where the configuration keeps the
    login to etcd there. Waiting tasks and the problems come from the leader's last pass; everything else is as of now.

    Exit codes: 0 when etcd answered, whatever the cluster's state; 2 wrong usage; 3 etcd cannot be used.
    """
    if watch and as_json:
        raise ConfigError("--watch and --json do not go together; call --json as often as you need it.")
    if watch and not sys.stdout.isatty():
        raise ConfigError("--watch needs a terminal to draw on; leave it out, or use --json.")
    with open_cluster(etcd, cluster, config) as opened:
        if watch:
            _watch(opened, list_all, verbose)
            return
        # A process that ends at once needs no collection of garbage; 10,000 nodes are read a fifth faster without.
        gc.disable()
        report = make_report(read_cluster(opened.store, opened.keys), time.time())
    if as_json:
        from scaler_plugin.status.as_json import as_json as text  # noqa: PLC0415

        typer.echo(text(report))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from scaler_plugin.status.render import render  # noqa: PLC0415
    from scaler_plugin.status.wording import counted  # noqa: PLC0415

    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(width=PIPED_WIDTH if piped else None, highlight=False)
    lines = render(report, console.width, list_all=list_all, verbose=verbose)
    if report.problems and sys.stdout.isatty() and len(lines) >= console.height:
        lines.append(Text(f"{counted(len(report.problems), 'problem')}, at the top of this output", style="bold"))
    for line in lines:
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _watch(opened: OpenCluster, list_all: bool, verbose: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from scaler_plugin.node.clock import SystemClock  # noqa: PLC0415
    from scaler_plugin.status.watching import watch_status  # noqa: PLC0415

    watch_status(
        opened.store,
        opened.keys,
        SystemClock(),
        Console(highlight=False),
        time.sleep,
        list_all=list_all,
        verbose=verbose,
    )
