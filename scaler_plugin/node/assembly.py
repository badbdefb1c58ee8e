"""Puts a sidecar together from real parts: the one place that knows which adapter stands behind which port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING

import structlog

from scaler_plugin import __version__
from scaler_plugin.agent.slots import NodeSlots
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.config.secrets import resolve
from scaler_plugin.coordination.config_digest import ConfigDigest, digest_in_child
from scaler_plugin.coordination.config_follower import ConfigFollower
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.registry import Registry
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import LaunchId, NodeRole, PoolName, Slot
from scaler_plugin.core.ports import Fleet, Gates, TaskServer
from scaler_plugin.errors import ConfigError, StoreError
from scaler_plugin.leader.journal import Journal
from scaler_plugin.node.clock import SystemClock
from scaler_plugin.node.health_watch import health_concerns, vitals_watch
from scaler_plugin.node.host import LocalHost
from scaler_plugin.node.reasons import node_reasons
from scaler_plugin.node.setup import NodeSetup
from scaler_plugin.sidecar.interruption import Interruptions
from scaler_plugin.sidecar.leading import Leading
from scaler_plugin.sidecar.ports import NodePorts
from scaler_plugin.sidecar.probing import Probing
from scaler_plugin.sidecar.service import Sidecar
from scaler_plugin.sidecar.settings import FollowedSettings

if TYPE_CHECKING:
    from scaler_plugin.config.pool_schema import PoolConfig
    from scaler_plugin.config.schema import AwsConfig, ScalerConfig
    from scaler_plugin.leader.service import Leader

log = structlog.get_logger(__name__)

DEFAULT_LEADER_TTL_S = 10


class NoGates:
    """The gates of a standby node: it has no slot, so nothing can be pulled and nothing retires."""

    def slots(self) -> tuple[Slot, ...]:
        return ()

    def close(self) -> bool:
        return True

    def open(self) -> None:
        return None

    def seal(self) -> None:
        return None

    def sealed(self) -> bool:
        return False


@dataclass(frozen=True)
class AssembledNode:
    """A sidecar and those of its parts that the runner drives."""

    sidecar: Sidecar
    leading: Leading
    store: Store
    election: Election
    registry: Registry
    tell_crash: Callable[[str], None]
    interruptions: Interruptions | None = None


def assemble(setup: NodeSetup, directory: Path) -> AssembledNode:
    """Build the sidecar on a connection to etcd, which need not answer yet. Raises ``ConfigError`` or ``HostError``."""
    clock = SystemClock()
    store = setup.etcd.open(setup.region)
    keys = Keys(setup.prefix, setup.identity.cluster)
    follower = ConfigFollower(store, keys, lambda text, where: digest_in_child(text, where, keys.cluster))
    settings = FollowedSettings(follower, UserDataWriter(setup.etcd, setup.prefix))

    def fleet() -> Fleet:
        known = settings.config()
        return open_fleet(setup, known.aws if known else None)

    def server() -> TaskServer:
        from scaler_plugin.clearml_server.api import ClearmlServer  # noqa: PLC0415  (clearml: as above)

        known = settings.config()
        clearml = known.clearml if known else None
        if known is None or clearml is None or not clearml.access_key or not clearml.secret_key:
            return ClearmlServer(api_host=clearml.api_host if clearml else None)
        return ClearmlServer(
            api_host=clearml.api_host,
            access_key=resolve(clearml.access_key, region=known.aws.region),
            secret_key=resolve(clearml.secret_key, region=known.aws.region),
        )

    leader_ttl_s = _leader_ttl_s(follower)
    election = Election(store, keys, setup.identity.instance_id, clock, ttl_s=leader_ttl_s)
    registry = Registry(store, keys, clock)

    def leader() -> Leader:
        from scaler_plugin.leader.service import Leader  # noqa: PLC0415

        own, rng = setup.identity.instance_id, SystemRandom()
        return Leader(own, store, keys, election, server(), fleet(), settings.for_leader, clock, rng)

    def report_unfit(why: str) -> None:
        own = setup.identity.instance_id
        Journal(store, keys, clock).record("cannot_lead", own, f"{own} was elected and cannot lead: {why}")

    def tell_crash(sentence: str) -> None:
        Journal(store, keys, clock).record("service_crashed", setup.identity.instance_id, sentence)

    host = LocalHost(vitals_watch(setup, clock))
    ports = NodePorts(store, keys, _gates(setup, directory, clock, server), host, clock, fleet, server)
    leading = Leading(settings, election, clock, leader, report_unfit)
    probing = None
    if setup.identity.role is NodeRole.PROBE:
        probing = Probing(setup.identity.instance_id, store, keys, clock, leading, leader_ttl_s)
    reasons = node_reasons(setup, directory, store, keys, registry, clock, settings, server)
    sidecar = Sidecar(
        setup.identity,
        ports,
        settings,
        election,
        registry,
        leading,
        __version__,
        concerns=(*reasons.concerns, *health_concerns(setup, host, settings, clock, Journal(store, keys, clock))),
        protections=reasons.protections,
        probing=probing,
    )
    return AssembledNode(sidecar, leading, store, election, registry, tell_crash, reasons.interruptions)


def open_fleet(setup: NodeSetup, aws: AwsConfig | None) -> Fleet:
    """EC2 as this node sees it. The region is the configuration's, else this machine's own: by its settings, or as an instance."""
    import boto3  # noqa: PLC0415  (only a leader or a dying node pays for it)

    from scaler_plugin.cloud.ec2 import Ec2Fleet  # noqa: PLC0415
    from scaler_plugin.cloud.metadata import own_region  # noqa: PLC0415

    told = (aws.region if aws else None) or setup.region
    region = told or boto3.session.Session().region_name or own_region()
    return Ec2Fleet(setup.identity.cluster, region=region, endpoint_url=aws.endpoint_url if aws else None)


def _leader_ttl_s(follower: ConfigFollower[ConfigDigest]) -> int:
    """The configured TTL as of now; a later change is taken up when the sidecar starts again."""
    try:
        return follower.current().leader_ttl_s
    except (StoreError, ConfigError) as error:
        log.warning("leader_ttl_not_known", error=str(error), used_s=DEFAULT_LEADER_TTL_S)
        return DEFAULT_LEADER_TTL_S


def _gates(setup: NodeSetup, directory: Path, clock: SystemClock, server: Callable[[], TaskServer]) -> Gates:
    if setup.identity.role is not NodeRole.WORKER:
        return NoGates()
    if setup.freeze:
        from scaler_plugin.agent.freeze import FreezeGates  # noqa: PLC0415  (only pools that ask for it)

        return FreezeGates(setup.worker_ids, setup.queues, server, clock, directory)
    return NodeSlots(directory, setup.slots, setup.worker_ids, clock)


@dataclass(frozen=True)
class UserDataWriter:
    """What the leader writes into the user-data of the instances it launches.

    Where the configuration names etcd's endpoints they are used, else those by which this node itself reached it. A stock image is
    also told how to become a node.
    """

    own: EtcdSettings
    prefix: str

    def __call__(self, config: ScalerConfig, pool: PoolName, launch_id: LaunchId) -> str:
        return self._user_data(config, config.pool(pool), NodeRole.WORKER, pool, launch_id)

    def probe(self, config: ScalerConfig) -> str:
        """The user-data of a probe, which serves no pool and has the image of one."""
        return self._user_data(config, config.probe_pool, NodeRole.PROBE)

    def _user_data(
        self,
        config: ScalerConfig,
        image_of: PoolConfig | None,
        role: NodeRole,
        pool: PoolName | None = None,
        launch_id: LaunchId | None = None,
    ) -> str:
        from scaler_plugin.bootstrapping.first_boot import on_image_of  # noqa: PLC0415  (only a leader writes any)
        from scaler_plugin.cloud.user_data import EtcdAccess, UserData  # noqa: PLC0415  (PyYAML: as above)

        etcd = config.etcd
        access = EtcdAccess(
            endpoints=etcd.endpoints or self.own.endpoints,
            ca=etcd.tls.ca if etcd.tls else self.own.ca,
            cert=etcd.tls.cert if etcd.tls else self.own.cert,
            key=etcd.tls.key if etcd.tls else self.own.key,
            user=etcd.user or self.own.user,
            password=etcd.password or self.own.password,
        )
        own = UserData(config.cluster, role, access, self.prefix, pool, launch_id).render()
        return on_image_of(image_of, own) if image_of else own
