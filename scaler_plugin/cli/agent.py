"""``scaler-sidecar agent``: run ``clearml-agent daemon`` on one slot of this node, with the gate around its pulls."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from scaler_plugin.agent.plugin import AgentSetup, refuse_options, run_agent
from scaler_plugin.agent.pool_queues import announced_queues
from scaler_plugin.node.clearml_conf import use_clearml_conf
from scaler_plugin.node.setup import read_setup, state_dir

_HELP = """Usage: scaler-sidecar agent [--slot N] [OPTIONS of clearml-agent daemon]

Runs the stock clearml-agent daemon on one slot of this node. It takes its worker id, queues, docker image and share of the GPUs
from what `scaler-sidecar boot` wrote; options given here win. It pulls no task while the sidecar has closed the gate.

  --slot N    which of the node's slots, counted from 0 (default 0)

All other options are clearml-agent's own: see `clearml-agent daemon --help`. Not taken: --detached, --services-mode,
--dynamic-gpus, --stop.
"""


def agent(
    context: typer.Context,
    slot: Annotated[int, typer.Option("--slot", help="Which of the node's slots, counted from 0.")] = 0,
) -> None:
    """Run this node's clearml-agent on one slot; all unknown options go to `clearml-agent daemon`."""
    if "--help" in context.args:
        typer.echo(_HELP)
        return
    refuse_options(context.args)  # before anything about this machine: the answer is the same on each
    directory = state_dir()
    node = read_setup(directory)
    setup = AgentSetup(
        identity=node.identity,
        slot=slot,
        slots=node.slots,
        queues=announced_queues(directory) or node.queues,
        docker_image=node.docker_image,
        cpu_only=node.cpu_only,
        state_dir=directory,
        freeze=node.freeze,
        gpus=node.gpus,
    )
    use_clearml_conf(directory, os.environ)
    raise typer.Exit(run_agent(setup, context.args))
