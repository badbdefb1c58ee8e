"""``scaler-sidecar bootstrap first`` and ``scaler-sidecar wake``: launch an instance that can work, and follow it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaler_plugin.cli.surveying import FileArgument, PoolOption, chosen_pool, deployment_of, show_survey, start
from scaler_plugin.core.model import InstanceId, NodeRole, PoolName
from scaler_plugin.errors import ScalerError, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from scaler_plugin.bootstrapping.account import Account
    from scaler_plugin.bootstrapping.following import ClusterSight
    from scaler_plugin.bootstrapping.survey import Survey
    from scaler_plugin.config.pool_schema import PoolConfig
    from scaler_plugin.config.schema import ScalerConfig
    from scaler_plugin.coordination.store import Store

#: What shells say of a command that Ctrl-C has ended.
INTERRUPTED = 130

AgainOption = Annotated[bool, typer.Option("--again", help="Also when instances of the cluster run already.")]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Follow it until its node has registered or it has ended.")
]


def first(file: FileArgument, pool: PoolOption = None, again: AgainOption = False, wait: WaitOption = True) -> None:
    """Launch the first instance: it leads, and launches the others.

    Looks at the account first, as `apply` does, and at etcd: nothing is launched that could not start. Then it follows the
    instance; exit code 1, with what the instance itself says, if it does not come up; 3 if that was not seen, because etcd does not
    answer here. Ctrl-C leaves the instance alone.
    """
    from scaler_plugin.bootstrapping.instances import launch_first  # noqa: PLC0415
    from scaler_plugin.bootstrapping.node_user_data import user_data_writer  # noqa: PLC0415

    config, account = start(file)
    writer = user_data_writer(config, os.environ)
    name = chosen_pool(config, pool)
    if not again:
        _refuse_another(config, (NodeRole.WORKER,))
    _surveyed(config, account)
    with _compared_with_etcd(config, name, account, file) as (published, sight):
        instance = launch_first(published, name, lambda launch_id: writer(published, name, launch_id), typer.echo)
        typer.echo(f"Launched {instance} for pool {name}.")
        if wait:
            _follow(instance, config, sight, file, account.region, config.pool(name))
    typer.echo(f"Watch the cluster: scaler-sidecar status --config {shlex.quote(str(file))} --watch")


def wake(file: FileArgument, again: AgainOption = False, wait: WaitOption = True) -> None:
    """Launch the probe now instead of waiting for the schedule: a cluster at zero then sees its tasks within a boot.

    Looks first whether it could start, and follows it, as `bootstrap first` does.
    """
    from scaler_plugin.bootstrapping.instances import launch_probe, probe_template  # noqa: PLC0415

    config, account = start(file)
    template = probe_template(config, deployment_of(config, account))
    if not again:
        _refuse_another(config, tuple(NodeRole))
    surveyed = _surveyed(config, account)
    with _compared_with_etcd(config, None, account, file) as (_, sight):
        instance = launch_probe(config, surveyed.ground, template, account)
        typer.echo(f"Launched the probe {instance}. It ends by itself as soon as it is not needed.")
        if wait:
            _follow(instance, config, sight, file, account.region, config.probe_pool, short_lived=True)


def _refuse_another(config: ScalerConfig, roles: tuple[NodeRole, ...]) -> None:
    from scaler_plugin.bootstrapping.instances import alive_of, cluster_fleet  # noqa: PLC0415
    from scaler_plugin.bootstrapping.readiness import refuse_another  # noqa: PLC0415

    refuse_another(config.cluster, alive_of(cluster_fleet(config)), roles)


def _surveyed(config: ScalerConfig, account: Account) -> Survey:
    from scaler_plugin.bootstrapping.readiness import refuse_missing_secrets  # noqa: PLC0415
    from scaler_plugin.bootstrapping.survey import survey  # noqa: PLC0415

    surveyed = survey(config, account)
    show_survey(config, surveyed, left_out=surveyed.missing_secrets)
    surveyed.refuse_errors()
    refuse_missing_secrets(surveyed)
    return surveyed


@contextmanager
def _compared_with_etcd(
    config: ScalerConfig, pool: PoolName | None, account: Account, file: Path
) -> Iterator[tuple[ScalerConfig, ClusterSight]]:
    """The configuration with its images' ids, and etcd as this machine reaches it, without a store where it does not.

    Raises ``ConfigError`` if no node could start by what etcd holds.
    """
    from scaler_plugin.bootstrapping.following import ClusterSight  # noqa: PLC0415
    from scaler_plugin.bootstrapping.images import with_image_ids  # noqa: PLC0415
    from scaler_plugin.bootstrapping.readiness import compare_with_published  # noqa: PLC0415
    from scaler_plugin.config.connect import find_cluster  # noqa: PLC0415
    from scaler_plugin.coordination.keys import Keys  # noqa: PLC0415

    config = with_image_ids(config, account, deployment_of(config, account).deployed_template)
    address = find_cluster(os.environ, config=config)
    keys = Keys(address.prefix, config.cluster)
    try:
        store: Store | None = address.etcd.open(config.aws.region)
    except ScalerError as error:
        _warn_of_etcd(error)
        store = None
    with closing(store) if store is not None else nullcontext():
        seen = store
        try:
            warning = compare_with_published(config, pool, store, keys, str(file)) if store is not None else None
            if warning:
                typer.echo(f"Warning: {warning}")
        except StoreError as error:
            _warn_of_etcd(error)
            seen = None
        yield config, ClusterSight(seen, keys)


def _warn_of_etcd(error: ScalerError) -> None:
    typer.echo(f"Warning: whether the configuration is published cannot be seen from here: {error}")


def _follow(
    instance: InstanceId,
    config: ScalerConfig,
    sight: ClusterSight,
    file: Path,
    region: str,
    pool: PoolConfig | None,
    short_lived: bool = False,
) -> None:
    from scaler_plugin.bootstrapping.following import Following, patience_with  # noqa: PLC0415
    from scaler_plugin.bootstrapping.instances import cluster_fleet  # noqa: PLC0415
    from scaler_plugin.node.clock import SystemClock  # noqa: PLC0415

    console = f"aws ec2 get-console-output --region {region} --latest --output text --instance-id {instance}"
    following = Following(instance, cluster_fleet(config), sight, SystemClock(), typer.echo)
    timeout_s = pool.startup_timeout.seconds if pool else 0.0
    try:
        following.run(patience_with(timeout_s, bool(pool and pool.first_boot)), short_lived)
    except KeyboardInterrupt:
        look = f"scaler-sidecar status --config {shlex.quote(str(file))}"
        typer.echo(f"\n{instance} is left alone. Look again: {look}, or: {console}")
        raise typer.Exit(INTERRUPTED) from None
    except ScalerError as error:
        kind = StoreUnavailable if isinstance(error, StoreUnavailable) else ScalerError
        raise kind(f"{error} Its whole console: {console}") from error
