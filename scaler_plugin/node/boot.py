"""Sets the machine up, once per boot: from instance metadata and user-data to ``node.json``, ``clearml.conf`` and the init script.

Guarantees: nothing is left half-done, ``node.json`` is written last, and sidecar and agents do not start without it. It fails
with a sentence (in the instance's console output) rather than wait: the service manager starts it again.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import structlog

from scaler_plugin.cloud.metadata import InstanceMetadata
from scaler_plugin.cloud.user_data import EtcdAccess, UserData, parse_user_data
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.published_config import read_config
from scaler_plugin.core.model import NodeIdentity, NodeRole, QueueName
from scaler_plugin.errors import ConfigError, HostError, ScalerError, StoreError
from scaler_plugin.node.agent_access import agent_user, make_slot_directories
from scaler_plugin.node.clearml_conf import clearml_conf, machine_conf, write_clearml_conf
from scaler_plugin.node.failed_boot import tell_of_boot
from scaler_plugin.node.gpus import expected_gpus
from scaler_plugin.node.setup import NodeSetup, write_setup

log = structlog.get_logger(__name__)

#: For the dead-man timer, which reads no configuration: how long this node may take until its sidecar runs, in seconds.
STARTUP_TIMEOUT_FILE = "startup_timeout"

#: How long a node without agents may take: it boots in half a minute and has nothing to prepare.
PROBE_STARTUP_S = 120.0

#: An init script that takes longer than this hangs, however long the pool's startup_timeout is.
INIT_SCRIPT_TIMEOUT_S = 1800.0


def boot(metadata: InstanceMetadata, directory: Path) -> NodeSetup:
    """Set this machine up and return what was written; why it could not be is told to the cluster, once etcd can be reached.

    Raises ``ConfigError`` for user-data or a configuration that does not fit, ``StoreError`` when etcd cannot be read,
    ``CloudError`` when metadata or a secret cannot be, ``HostError`` when the init script fails.
    """
    data = parse_user_data(metadata.user_data())
    etcd = etcd_settings(data.etcd)
    try:
        _make_state_directory(directory)  # first: what is fetched from AWS is kept in it for the sidecar
        if data.role is not NodeRole.WORKER:
            return _boot_without_agents(data, etcd, metadata, directory)
        return _boot_worker(data, etcd, metadata, directory)
    except StoreError:
        raise  # there is nobody to tell
    except ScalerError as error:
        tell_of_boot(etcd, Keys(data.prefix, data.cluster), metadata, error, directory, time.time())
        raise


def _boot_worker(data: UserData, etcd: EtcdSettings, metadata: InstanceMetadata, directory: Path) -> NodeSetup:
    config = _published_config(etcd, Keys(data.prefix, data.cluster))
    pool = config.pool(data.pool)
    if pool is None:
        raise ConfigError(
            f"This instance was launched for pool {data.pool}, which the configuration of cluster {data.cluster} does not have."
        )
    identity = _identity(data, metadata)
    agents_user = agent_user(os.environ)
    _write_startup_timeout(directory, pool.startup_timeout.seconds)
    if agents_user is not None:
        make_slot_directories(directory, pool.slots_per_node, agents_user)
    conf = clearml_conf(config, pool, machine_conf())
    if conf is not None:
        write_clearml_conf(directory, conf, agents_user)
    if pool.init_script:
        _run_init_script(pool.init_script, init_script_time(pool.startup_timeout.seconds, uptime()))
    setup = NodeSetup(
        identity=identity,
        etcd=etcd,
        prefix=data.prefix,
        slots=pool.slots_per_node,
        queues=tuple(QueueName(queue) for queue in pool.queues),
        docker_image=pool.docker_image,
        cpu_only=pool.cpu_only,
        gpus=expected_gpus(identity.instance_type),
        freeze=pool.freeze_fallback,
    )
    write_setup(directory, setup)
    log.info("machine_set_up", instance=identity.instance_id, pool=pool.name, slots=setup.slots)
    return setup


def _boot_without_agents(data: UserData, etcd: EtcdSettings, metadata: InstanceMetadata, directory: Path) -> NodeSetup:
    """Set a node up that only leads: no pool, no slot, no ClearML configuration, no script."""
    # Before anything can fail: what this machine would cost while it waits is wasted, and the next probe comes soon.
    _write_startup_timeout(directory, PROBE_STARTUP_S)
    _published_config(etcd, Keys(data.prefix, data.cluster))
    identity = _identity(data, metadata)
    setup = NodeSetup(identity=identity, etcd=etcd, prefix=data.prefix, slots=0)
    write_setup(directory, setup)
    log.info("machine_set_up", instance=identity.instance_id, role=identity.role.value)
    return setup


def _identity(data: UserData, metadata: InstanceMetadata) -> NodeIdentity:
    return NodeIdentity(
        cluster=data.cluster,
        instance_id=metadata.instance_id(),
        role=data.role,
        pool=data.pool,
        instance_type=metadata.instance_type(),
        market=metadata.market(),
        zone=metadata.zone(),
        launch_id=data.launch_id,
    )


def _make_state_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error


def _write_startup_timeout(directory: Path, seconds: float) -> None:
    try:
        (directory / STARTUP_TIMEOUT_FILE).write_text(f"{seconds:.0f}\n")
    except OSError as error:
        raise _unusable(directory, error) from error


def _unusable(directory: Path, error: OSError) -> HostError:
    return HostError(f"The state directory {directory} could not be used: {error}.")


def etcd_settings(access: EtcdAccess) -> EtcdSettings:
    """How this machine reaches etcd, as its user-data says."""
    return EtcdSettings(access.endpoints, access.ca, access.cert, access.key, access.user, access.password)


def _published_config(etcd: EtcdSettings, keys: Keys) -> ScalerConfig:
    store = etcd.open()
    try:
        published = read_config(store, keys)
    finally:
        store.close()
    if published is None:
        raise ConfigError(
            f"No configuration is published for cluster {keys.cluster}; push one with `scaler-sidecar config push scaler.yaml`."
        )
    return published.config


def uptime() -> float:
    """Seconds since the machine booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def init_script_time(startup_timeout_s: float, up_s: float) -> float:
    """How long the pool's script may take: beyond ``startup_timeout`` the instance is ended, and nobody would say what hung.

    A machine that is up for longer already was not just launched (it runs a node of the local cloud, say): all of the time is the
    script's.
    """
    left_s = startup_timeout_s - up_s if up_s < startup_timeout_s else startup_timeout_s
    return min(INIT_SCRIPT_TIMEOUT_S, left_s)


def _run_init_script(script: str, time_s: float) -> None:
    """Run the pool's script with a shell, its output in the machine's own (the console of the instance)."""
    command = ["/bin/sh", "-e", "-c", script]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=time_s, check=False)
    except subprocess.TimeoutExpired:
        raise HostError(
            f"The pool's init_script did not end within {time_s:.0f} s, the time that startup_timeout leaves it "
            f"({INIT_SCRIPT_TIMEOUT_S:.0f} s at most). Bake what it installs into the image, or give the pool a longer one."
        ) from None
    if done.returncode != 0:
        raise HostError(
            f"The pool's init_script failed with exit code {done.returncode}; its output in the console says more."
        )
