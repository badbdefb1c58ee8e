"""``scaler-sidecar config``: validate, push, show, schema."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from scaler_plugin.cli.options import ClusterOption, ConfigOption, EtcdOption, connect, open_cluster
from scaler_plugin.cli.wrapping import fitted
from scaler_plugin.config.connect import find_cluster
from scaler_plugin.config.load import load_file
from scaler_plugin.config.pool_schema import is_image_id
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.published_config import push_config, read_config
from scaler_plugin.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Validate, publish and show a cluster's configuration.",
)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="The configuration, usually scaler.yaml.", show_default=False)
]


@app.command()
def validate(file: FileArgument) -> None:
    """Check a configuration without touching anything, and sum up its pools.

    Every mistake is listed with its place, the value found and what is allowed. Exit code 2 if there is one.
    """
    config = load_file(file)
    typer.echo(f"{file} is valid.")
    for line in _summary(config):
        typer.echo(fitted(line, sys.stdout))


@app.command()
def push(
    file: FileArgument,
    etcd: Annotated[
        str | None,
        typer.Option(
            "--etcd",
            metavar="HOST:PORT,…",
            help="etcd's endpoints. Otherwise the variable SCALER_ETCD, then FILE, then 127.0.0.1:2379.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="NAME", help="Refuse to push unless FILE is for this cluster."),
    ] = None,
) -> None:
    """Publish a configuration: every node of the cluster follows it within one poll interval.

    A file with a mistake is refused before anything is written. If somebody else pushes at the same moment, one of the two is
    refused and told so. FILE is also what --config is for other commands: it names the cluster and says how to reach etcd.
    --cluster or SCALER_CLUSTER only guards against pushing to another by mistake. An image that is not named by its id is looked
    up, which takes AWS credentials: the stack says which it is, since leaders may launch no other (`bootstrap apply` takes a newer
    one); without a stack, EC2 and Systems Manager do.
    """
    config = load_file(file)
    named = cluster or os.environ.get("SCALER_CLUSTER")
    if named and named != config.cluster:
        source = "--cluster" if cluster else "SCALER_CLUSTER"
        raise ConfigError(
            f"{file} is for cluster {config.cluster}, but {source} says {named}; nothing was written."
            f" Correct one of them (or give --cluster {config.cluster})."
        )
    config = _with_image_ids(config)
    with connect(find_cluster(os.environ, etcd=etcd, cluster=config.cluster, config=config), config) as opened:
        stored = opened.store.get(opened.keys.config)
        revision = push_config(opened.store, opened.keys, config)
        unchanged = stored is not None and stored.mod_revision == revision
    place = f"cluster {config.cluster} in etcd at {opened.address.etcd}"
    if unchanged:
        typer.echo(f"Unchanged: {place} has this configuration already, revision {revision}.")
    else:
        typer.echo(f"Pushed to {place}, revision {revision}.")


@app.command()
def show(etcd: EtcdOption = None, cluster: ClusterOption = None, config: ConfigOption = None) -> None:
    """Print the published configuration as YAML, its revision in a comment.

    Durations and the order of keys are as the reference has them. References to secrets are printed; what looks like a secret
    in a script or a piece of clearml.conf is shown as ***, and such output is refused by `push` until it is put back.
    """
    from scaler_plugin.config.shown import shown_yaml  # noqa: PLC0415

    with open_cluster(etcd, cluster, config) as opened:
        published = read_config(opened.store, opened.keys)
    if published is None:
        raise ConfigError(
            f"No configuration is published for cluster {opened.keys.cluster} in etcd at {opened.address.etcd};"
            " push one with `scaler-sidecar config push scaler.yaml`."
        )
    typer.echo(f"# cluster {published.config.cluster}, revision {published.revision}")
    typer.echo(shown_yaml(published.config), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON schema of scaler.yaml, for editors and for checks in CI.

    Rules that span several settings (a minimum below its maximum, subnets or zones) are not in it; `validate` knows them.
    """
    import json  # noqa: PLC0415

    typer.echo(json.dumps(ScalerConfig.model_json_schema(), indent=2))


def _with_image_ids(config: ScalerConfig) -> ScalerConfig:
    """The configuration as it is published; says which image each name stands for."""
    if all(is_image_id(pool.ami) for pool in config.pools):
        return config
    from scaler_plugin.bootstrapping.account import Account  # noqa: PLC0415  (only names need AWS)
    from scaler_plugin.bootstrapping.deployment import Deployment  # noqa: PLC0415
    from scaler_plugin.bootstrapping.images import with_image_ids  # noqa: PLC0415

    account = Account(config.aws)
    published = with_image_ids(
        config, account, Deployment(account, config.aws.stack or "", typer.echo).deployed_template
    )
    for given, found in zip(config.pools, published.pools, strict=True):
        if given.ami != found.ami:
            typer.echo(f"Pool {given.name}: {given.ami} is {found.ami}.")
    return published


def _summary(config: ScalerConfig) -> list[str]:
    total = config.max_instances or sum(pool.max_instances for pool in config.pools)
    pools = "1 pool" if len(config.pools) == 1 else f"{len(config.pools)} pools"
    lines = [f"cluster {config.cluster}: {pools}, at most {total} instances, zero mode {config.zero_mode.value}"]
    for pool in config.pools:
        count = f"{pool.min_instances} to {pool.max_instances} {pool.market.value}"
        idle = f"idle {pool.idle_timeout} until it retires" if pool.idle_timeout else "never retires"
        where = ", ".join(pool.subnets or pool.zones) or "default subnet"
        lines.append(
            f"  {pool.name}: {', '.join(pool.queues)} → {count} x {' or '.join(pool.instance_types)}, {where}, {idle}, "
            + (f"docker {pool.docker_image}" if pool.docker_image else "virtual environments")
        )
    return lines
