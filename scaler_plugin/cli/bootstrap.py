"""``scaler-sidecar bootstrap``: plan, apply, user-data, destroy; ``first`` is in :mod:`scaler_plugin.cli.launching`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.bootstrapping.deployment import Deployment
from scaler_plugin.bootstrapping.difference import Change, compare, describe
from scaler_plugin.bootstrapping.node_user_data import user_data_writer
from scaler_plugin.bootstrapping.spot_role import ensure_spot_role, plan_of_spot_role
from scaler_plugin.bootstrapping.survey import Survey, survey
from scaler_plugin.bootstrapping.template import render_template, stack_name
from scaler_plugin.cli.launching import first
from scaler_plugin.cli.surveying import FileArgument, PoolOption, chosen_pool, deployment_of, show_survey, start
from scaler_plugin.cli.wrapping import fitted
from scaler_plugin.config.connect import find_cluster
from scaler_plugin.config.load import load_file
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.core.model import LaunchId
from scaler_plugin.errors import ConfigError

if TYPE_CHECKING:
    from typing import Any

    from scaler_plugin.config.schema import ScalerConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Set an AWS account up for a cluster: one CloudFormation stack, and the first instance.",
)


@app.command()
def plan(
    file: FileArgument,
    template: Annotated[
        bool, typer.Option("--template", help="Print the CloudFormation template itself, as JSON, and nothing else.")
    ] = False,
) -> None:
    """Show what `apply` would change in the account; changes nothing.

    Looks at images, instance types, subnets, keys, quotas and secrets first. Exit code 5 if instances could not start.
    """
    config, account = start(file)
    surveyed = survey(config, account)
    if template:
        import json  # noqa: PLC0415

        surveyed.refuse_errors()
        typer.echo(json.dumps(_template(config, surveyed), indent=2))
        return
    show_survey(config, surveyed)
    surveyed.refuse_errors()
    deployment = deployment_of(config, account)
    hindrance = deployment.hindrance()
    if hindrance:
        typer.echo(fitted(hindrance, sys.stdout))
    changes = _changes(config, deployment, _template(config, surveyed))
    if changes:
        typer.echo(f"`apply` would change the stack {stack_name(config)}:")
        for line in describe(changes):
            typer.echo(fitted(line, sys.stdout))
    elif not hindrance:
        typer.echo(f"The stack {stack_name(config)} is as the configuration wants it; nothing to change.")
    spot_role = plan_of_spot_role(config, account)
    if spot_role:
        also = "also " if changes else ""
        typer.echo(fitted(f"`apply` would {also}make, once for the account:\n{spot_role}", sys.stdout))


@app.command()
def apply(file: FileArgument) -> None:
    """Make or update the stack, and show how it comes along. Calling it again changes nothing.

    Nothing is begun when instances could not start as configured. Publish the configuration afterwards
    (`scaler-sidecar config push`): leaders launch what it says, within what the stack allows.
    """
    from scaler_plugin.bootstrapping.instances import cluster_tags  # noqa: PLC0415
    from scaler_plugin.bootstrapping.next_steps import next_steps  # noqa: PLC0415

    config, account = start(file)
    surveyed = survey(config, account)
    show_survey(config, surveyed)
    surveyed.refuse_errors()
    wanted = _template(config, surveyed)
    deployment = deployment_of(config, account)
    for line in describe(_changes(config, deployment, wanted)):
        typer.echo(fitted(line, sys.stdout))
    before = deployment.outputs()
    ensure_spot_role(config, account, typer.echo)
    if deployment.apply(wanted, cluster_tags(config)):
        typer.echo(f"The stack {stack_name(config)} is ready.")
    else:
        typer.echo(f"The stack {stack_name(config)} was ready already.")
    outputs = deployment.outputs()
    for name, value in outputs.items():
        typer.echo(f"  {name}: {value}")
    for step in next_steps(config, account.region, before, outputs, str(file)):
        typer.echo(step)


app.command()(first)


@app.command("user-data")
def user_data(
    file: FileArgument,
    pool: PoolOption = None,
    probe: Annotated[bool, typer.Option("--probe", help="The user-data of a probe, which serves no pool.")] = False,
) -> None:
    """Print the user-data of a node, for those who launch by hand or with Terraform.

    It holds addresses and names of secrets, never a secret. The instance needs the tag `scaler-sidecar:cluster` (with
    the cluster's name) and `scaler-sidecar:pool`, and must terminate when its system shuts down.
    """
    config = load_file(file)
    writer = user_data_writer(config, os.environ)
    if probe and pool:
        raise ConfigError("A probe serves no pool; give --pool or --probe, not both.")
    text = writer.probe(config) if probe else writer(config, chosen_pool(config, pool), LaunchId("by-hand"))
    typer.echo(text, nl=False)


@app.command()
def destroy(
    file: FileArgument,
    terminate: Annotated[
        bool, typer.Option("--terminate", help="End the cluster's instances first, unless a task runs on one.")
    ] = False,
    kill_tasks: Annotated[
        bool,
        typer.Option(
            "--kill-tasks", help="With --terminate: end them also with tasks on them, or where nobody can say."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the stack. Refuses while instances of the cluster run, and says which, and which tasks run on them.

    What runs on an instance is read from etcd. With --terminate each worker takes no further task and ends itself, as after
    `drain`; only --kill-tasks ends one with a task on it. What the stack did not make stays: images, secrets, etcd's data,
    ClearML's queues and tasks.
    """
    from scaler_plugin.bootstrapping.activity import NodeRecords  # noqa: PLC0415
    from scaler_plugin.bootstrapping.instances import cluster_fleet  # noqa: PLC0415
    from scaler_plugin.bootstrapping.teardown import Ending, TearDown  # noqa: PLC0415

    if kill_tasks and not terminate:
        raise ConfigError("--kill-tasks goes with --terminate; give both.")
    config = load_file(file)
    account = Account(config.aws)
    name = stack_name(config)
    with_tasks = ", and end its instances with the tasks on them" if kill_tasks else ""
    if not yes and not typer.confirm(f"Delete the stack {name} of cluster {config.cluster}{with_tasks}?"):
        raise typer.Exit(1)
    address = find_cluster(os.environ, config=config)
    records = NodeRecords(lambda: address.etcd.open(config.aws.region), Keys(address.prefix, config.cluster))
    ending = Ending.ALL if kill_tasks else Ending.IDLE_ONES if terminate else Ending.NOTHING
    taking_down = TearDown(config.cluster, deployment_of(config, account), cluster_fleet(config), records, typer.echo)
    try:
        deleted = taking_down.run(ending)
    finally:
        records.close()
    if deleted:
        typer.echo(f"The stack {name} is gone.")
    else:
        typer.echo(f"There is no stack {name}.")


def _template(config: ScalerConfig, surveyed: Survey) -> dict[str, Any]:
    return render_template(config, surveyed.ground, user_data_writer(config, os.environ).probe(config))


def _changes(config: ScalerConfig, deployment: Deployment, wanted: dict[str, Any]) -> tuple[Change, ...]:
    return compare(deployment.deployed_template(), wanted)
