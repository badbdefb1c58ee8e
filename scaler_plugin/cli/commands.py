"""The list of commands. A new command is one line here: its name, where it is, and the line that ``--help`` shows.

The target is a function with typer's annotations, or a ``typer.Typer`` for a group of commands. Its module is imported only when
the command is called, so that no command pays for another's libraries.
"""

from __future__ import annotations

from scaler_plugin.cli.lazy_group import LazyCommand

COMMANDS = (
    LazyCommand("init", "scaler_plugin.cli.init:init", "Write a first scaler.yaml, or take over the original's."),
    LazyCommand(
        "status", "scaler_plugin.cli.status:status", "Show the cluster: leader, problems, queues, pools, nodes."
    ),
    LazyCommand("boot", "scaler_plugin.cli.node:boot", "Set this instance up from its user-data, once per boot."),
    LazyCommand("run", "scaler_plugin.cli.node:run", "Run this machine's sidecar until SIGTERM."),
    LazyCommand("node", "scaler_plugin.cli.node:node", "Ask this machine's sidecar what it knows."),
    LazyCommand("health", "scaler_plugin.cli.health:health", "Say whether this machine is fit to take tasks."),
    LazyCommand("drain", "scaler_plugin.cli.requests:drain", "Let nodes finish their task and end."),
    LazyCommand("undrain", "scaler_plugin.cli.requests:undrain", "Take a drain back."),
    LazyCommand("protect", "scaler_plugin.cli.requests:protect", "Keep a node although it is idle."),
    LazyCommand("unprotect", "scaler_plugin.cli.requests:unprotect", "Take a node's protection back."),
    LazyCommand("config", "scaler_plugin.cli.config:app", "Validate, publish and show a cluster's configuration."),
    LazyCommand(
        "bootstrap",
        "scaler_plugin.cli.bootstrap:app",
        "Set an AWS account up for a cluster, and start its first instance.",
    ),
    LazyCommand("etcd", "scaler_plugin.cli.etcd:app", "Look after etcd: certificates, health, backups."),
    LazyCommand("wake", "scaler_plugin.cli.launching:wake", "Launch the probe of a cluster at zero now."),
    LazyCommand(
        "agent", "scaler_plugin.cli.agent:agent", "Run this node's clearml-agent on one slot.", passthrough=True
    ),
    LazyCommand("demo", "scaler_plugin.cli.demo:demo", "Watch a cluster's whole life on this machine."),
    LazyCommand("localcloud", "scaler_plugin.cli.localcloud:app", "A whole cloud on this machine, to play with."),
)
