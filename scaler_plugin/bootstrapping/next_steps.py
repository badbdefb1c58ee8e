"""What a person does after `apply`, as lines: open etcd and ClearML to the nodes, publish, start. Pure.

The stack opens nothing: etcd's and ClearML's security groups are not its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.policy import ZeroMode

#: The output of the stack that names the nodes' group.
NODE_GROUP = "NodeSecurityGroup"
_ETCD_PORT = 2379
_HOSTED = "clear.ml"


def next_steps(
    config: ScalerConfig, region: str, before: Mapping[str, str], outputs: Mapping[str, str], file: str
) -> tuple[str, ...]:
    """``before`` and ``outputs`` are the stack's outputs before and after; the way to etcd is told for a group that is new."""
    group = outputs.get(NODE_GROUP, "")
    steps = []
    if group and group != before.get(NODE_GROUP):
        steps += list(_opening(config, region, group))
    file = shlex.quote(file)
    steps.append(f"Next: scaler-sidecar config push {file}")
    if config.zero_mode is ZeroMode.PROBE:
        steps.append(
            f"The probe looks for tasks every {config.zero.probe_every}; `scaler-sidecar wake {file}` does at once."
        )
    elif config.zero_mode is ZeroMode.STANDBY:
        steps.append(
            "Then, on a machine that is always up (docs/operations.md, A standby): "
            f"scaler-sidecar run --standby --config {file}"
        )
    else:
        steps.append(f"Then: scaler-sidecar bootstrap first {file}")
    return tuple(steps)


def _opening(config: ScalerConfig, region: str, group: str) -> Iterator[str]:
    own = sorted({name for pool in config.pools for name in pool.security_groups})
    groups = [*([group] if any(not pool.security_groups for pool in config.pools) else []), *own]
    yield "First: let etcd and a ClearML server of your own accept the nodes. For each group that these machines are in:"
    for port in (*_ports_of_etcd(config), *_ports_of_clearml(config)):
        for source in groups:
            yield (
                f"  aws ec2 authorize-security-group-ingress --region {region} --group-id GROUP-OF-THAT-MACHINE "
                f"--protocol tcp --port {port} --source-group {source}"
            )


def _ports_of_etcd(config: ScalerConfig) -> list[int]:
    named = [endpoint if "://" in endpoint else f"//{endpoint}" for endpoint in config.etcd.endpoints]
    return sorted({urlsplit(endpoint).port or _ETCD_PORT for endpoint in named}) or [_ETCD_PORT]


def _ports_of_clearml(config: ScalerConfig) -> list[int]:
    """Of the servers that agents and leaders call, but for the hosted ones."""
    found = set()
    for url in (config.clearml.api_host, config.clearml.files_host):
        parts = urlsplit(url or "")
        if parts.hostname and not f".{parts.hostname}".endswith(f".{_HOSTED}"):
            found.add(parts.port or (443 if parts.scheme == "https" else 80))
    return sorted(found)
