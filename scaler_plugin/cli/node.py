"""Commands of one machine: ``boot``, ``run`` and ``node``."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zlib import crc32

import typer

from scaler_plugin.cli.options import NO_CLUSTER, ClusterOption, ConfigOption, EtcdOption
from scaler_plugin.errors import ConfigError

if TYPE_CHECKING:
    from scaler_plugin.config.connect import EtcdSettings
    from scaler_plugin.node.setup import NodeSetup

VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log every detail.")]


def boot(
    gate: Annotated[
        bool, typer.Option("--gate", help="Pass the health gate as well, as `health --gate` does afterwards.")
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    """Set this instance up from its user-data: once per boot, before `run` and `agent`.

    Reads instance metadata (IMDSv2) and the cluster's configuration, writes `node.json` and, where the configuration has
    ClearML settings, `clearml.conf` (readable for this user only) to the state directory, and runs the pool's init script.
    """
    from scaler_plugin.cloud.metadata import ImdsMetadata  # noqa: PLC0415
    from scaler_plugin.node.boot import boot as boot_machine  # noqa: PLC0415
    from scaler_plugin.node.setup import state_dir  # noqa: PLC0415
    from scaler_plugin.observability.logs import configure_logs  # noqa: PLC0415

    configure_logs(verbose)
    setup = boot_machine(ImdsMetadata(), state_dir())
    if gate:
        from scaler_plugin.node.health_gate import run_gate  # noqa: PLC0415
        from scaler_plugin.node.hooks import ShellHooks  # noqa: PLC0415
        from scaler_plugin.node.host import LocalHost  # noqa: PLC0415

        run_gate(setup, ShellHooks(), LocalHost())


def run(
    standby: Annotated[
        bool,
        typer.Option("--standby", help="Run without an agent, only to lead: on the etcd or ClearML host, for example."),
    ] = False,
    etcd: EtcdOption = None,
    cluster: ClusterOption = None,
    config: ConfigOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Run the sidecar until SIGTERM.

    On an instance it goes by what `scaler-sidecar boot` wrote, and the options are not needed. With `--standby` it needs to
    know the cluster and its etcd.
    """
    from scaler_plugin.node.process import become_sidecar  # noqa: PLC0415
    from scaler_plugin.node.setup import read_setup, state_dir  # noqa: PLC0415

    if standby:
        become_sidecar(_standby_setup(etcd, cluster, config), verbose=verbose)
    if etcd or cluster or config:
        raise ConfigError(
            "--etcd, --cluster and --config go with --standby; an instance learns them from its user-data."
        )
    read_setup(state_dir())  # a machine that was not set up hears of it here
    become_sidecar(None, verbose=verbose)


def _standby_setup(etcd: str | None, cluster: str | None, config: Path | None) -> NodeSetup:
    from scaler_plugin.config.connect import find_cluster  # noqa: PLC0415
    from scaler_plugin.core.model import InstanceId, NodeIdentity, NodeRole  # noqa: PLC0415
    from scaler_plugin.node.setup import NodeSetup, state_dir  # noqa: PLC0415

    loaded = None
    if config:
        from scaler_plugin.config.load import load_file  # noqa: PLC0415

        loaded = load_file(config)
    address = find_cluster(os.environ, etcd=etcd, cluster=cluster, config=loaded)
    if address.cluster is None:
        raise ConfigError(NO_CLUSTER)
    identity = NodeIdentity(address.cluster, InstanceId(_standby_name()), NodeRole.STANDBY, instance_type="standby")
    region = loaded.aws.region if loaded else None
    if state_dir().is_dir():
        _fetch_login(address.etcd, region)
    return NodeSetup(identity, address.etcd, address.prefix, slots=0, region=region)


def _fetch_login(etcd: EtcdSettings, region: str | None) -> None:
    """Put what AWS keeps of it into the state directory, for a sidecar that then need not load boto3 (40 MB) for it."""
    from scaler_plugin.config.connect import local_file  # noqa: PLC0415
    from scaler_plugin.config.kept_secrets import IN_AWS, resolve_kept  # noqa: PLC0415

    for given in (etcd.ca, etcd.cert, etcd.key):
        local_file(given, region)
    if etcd.password is not None and etcd.password.source in IN_AWS:
        resolve_kept(etcd.password, region)


def _standby_name() -> str:
    """Named for the host. Several on one host have a state directory each, and must not share a node's record."""
    from scaler_plugin.node.setup import DEFAULT_STATE_DIR, state_dir  # noqa: PLC0415

    directory = state_dir()
    name = f"standby-{socket.gethostname()}"
    return name if directory == DEFAULT_STATE_DIR else f"{name}-{crc32(bytes(directory.absolute())) & 0xFFFF:04x}"


def node(
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Ask this machine's sidecar what it knows at first hand; works without etcd."""
    import json  # noqa: PLC0415

    from scaler_plugin.node.control import ask_sidecar  # noqa: PLC0415
    from scaler_plugin.node.setup import state_dir  # noqa: PLC0415

    report = ask_sidecar(state_dir(), {"ask": "report"})
    if as_json:
        typer.echo(json.dumps(report))
        return
    this = report["node"]
    typer.echo(f"{this['identity']['instance_id']}: {this['state']}" + (", leading" if report["term"] else ""))
    for slot in this["slots"]:
        task = f" {slot['task_id']}" if slot.get("task_id") else ""
        typer.echo(f"  slot {slot['index']}: {slot['state']}{task}")
    if report["etcd_away"]:
        typer.echo("  etcd does not answer.")
    if report["why"]:
        typer.echo(f"  {report['why']}")
