"""A whole cloud on this machine: etcd, EC2 with its machines, a ClearML API, and a configuration in it. No sidecar.

Each part may be replaced by a real one. Guarantees: when it is closed, no process, port or file of it is left; when this process is
killed, no process or port is. What was put into a part that is not ours (configuration, queues) is taken out again.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from scaler_plugin.config.connect import ClusterAddress, find_cluster
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.published_config import push_config
from scaler_plugin.coordination.store import Delete, Store
from scaler_plugin.core.model import QueueName
from scaler_plugin.errors import ConfigError, HostError, StoreError
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess
from scaler_plugin.localcloud.default_config import REGION, default_config
from scaler_plugin.localcloud.ec2 import Ec2DoubleProcess
from scaler_plugin.localcloud.etcd import EtcdProcess, etcd_binary
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.machines.ground import NamespaceGround
from scaler_plugin.localcloud.machines.instances import ApiInstances, DoubleInstances, Instances
from scaler_plugin.localcloud.machines.layer import Machines
from scaler_plugin.localcloud.machines.process import MachineProcess
from scaler_plugin.localcloud.parts import Part, PartKeeper
from scaler_plugin.localcloud.scratch import make_scratch, remove_scratch

ETCD, EC2, CLEARML = "etcd", "ec2", "clearml"
EXTRA = ".[local]"
#: Keys in one transaction of etcd, which takes 128.
_KEYS_AT_ONCE = 100
# Nobody leads yet, so nothing is late: an etcd that has just begun may take its time on a busy machine.
_PUSH_TIMEOUT_S = 30.0
#: How long an orderly shutdown of a standby sidecar may take.
STANDBY_STOP_S = 15.0


@dataclass(frozen=True)
class WorldOptions:
    """``etcd``, ``clearml_host`` and ``ec2_endpoint`` name real parts to use instead of embedded ones; ports of 0 are free ones.

    For tests: ``ground`` gives machines and servers addresses of their own, ``faults`` lets faults be injected into ClearML, and
    ``steady`` machines restart what is killed without growing pauses.
    """

    config: ScalerConfig = field(default_factory=default_config)
    boot_delay_s: float = 2.0
    etcd: str | None = None
    clearml_host: str | None = None
    ec2_endpoint: str | None = None
    etcd_port: int = 0
    ec2_port: int = 0
    clearml_port: int = 0
    keep_folder: bool = False
    etcd_members: int = 1
    ground: NamespaceGround | None = None
    faults: bool = False
    steady: bool = False


class World:
    """A context manager; everything else needs it to be entered."""

    def __init__(
        self, options: WorldOptions, interruption: Interruption, caller: Mapping[str, str] = os.environ
    ) -> None:
        self.options = options
        self._interruption = interruption
        self._caller = dict(caller)
        self._exit = ExitStack()
        self.etcd: tuple[EtcdProcess, ...] = ()
        self._ec2: Ec2DoubleProcess | None = None
        self._clearml: ClearmlApiProcess | None = None
        self.machines: Machines | None = None
        self.parts = PartKeeper(())

    def __enter__(self) -> World:
        """Start everything. Raises ``ScalerError`` with what is missing or wrong, ``Interrupted`` when told to end meanwhile."""
        try:
            self._open()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def config(self) -> ScalerConfig:
        return self.options.config

    @property
    def address(self) -> ClusterAddress:
        """How the cluster's etcd is reached from here."""
        own = ",".join(member.endpoint.removeprefix("http://") for member in self.etcd) or self.options.etcd
        address = find_cluster(
            {} if self.etcd else self._caller, etcd=own, cluster=self.config.cluster, config=self.config
        )
        return replace(address, prefix=self.config.prefix)

    @property
    def keys(self) -> Keys:
        return Keys(self.config.prefix, self.config.cluster)

    def open_store(self) -> Store:
        return self.address.etcd.open()

    def clearml_environment(self) -> dict[str, str]:
        """Where ClearML is and the keys for it, as the SDK and the agent read them."""
        if self._clearml is not None:
            return self._clearml.client_environment()
        kept = {name: value for name, value in self._caller.items() if name.startswith("CLEARML_")}
        return {**kept, "CLEARML_API_HOST": self.options.clearml_host or ""}

    def aws_environment(self) -> dict[str, str]:
        """Where EC2 is and the keys for it, as boto3 reads them. The double takes any key."""
        kept = {} if self._ec2 else {name: value for name, value in self._caller.items() if name.startswith("AWS_")}
        if "AWS_PROFILE" not in kept:
            kept.setdefault("AWS_ACCESS_KEY_ID", "local")
            kept.setdefault("AWS_SECRET_ACCESS_KEY", "local")
        endpoint = self._ec2.url if self._ec2 else (self.options.ec2_endpoint or "")
        return {
            **kept,
            "AWS_ENDPOINT_URL_EC2": endpoint,
            "AWS_DEFAULT_REGION": self.config.aws.region or kept.get("AWS_DEFAULT_REGION", REGION),
        }

    def exports(self) -> dict[str, str]:
        """The environment of a client of this world, on this machine."""
        address = self.address
        prefix = {} if address.prefix == "scaler-sidecar" else {"SCALER_PREFIX": address.prefix}
        return {
            **self.clearml_environment(),
            **self.aws_environment(),
            "SCALER_ETCD": ",".join(address.etcd.endpoints),
            "SCALER_CLUSTER": self.config.cluster,
            **prefix,
            "SCALER_STATE_DIR": str(self.folder / "client"),
        }

    def start_standby(self, restart_after_s: float | None = None, name: str = "standby") -> MachineProcess:
        """A machine that only runs ``scaler-sidecar run --standby``; it is stopped with the world."""
        settings = {name: value for name, value in self._caller.items() if name.startswith("SCALER_ETCD_")}
        cloud = {**({} if self.etcd else settings), **self.exports(), **self._direct()}
        del cloud["SCALER_STATE_DIR"]  # the machine has its own
        path, ground = self.folder / name, self.options.ground
        machine = MachineProcess(
            path,
            self._caller,
            cloud,
            standby=True,
            restart_after_s=restart_after_s,
            steady=self.options.steady,
            ground=ground.settle(path) if ground else (),
        )
        if ground is not None:
            self._exit.callback(ground.vacate, path)
        self._exit.callback(stop_standby, machine)
        return machine

    def _open(self) -> None:
        self._check_packages()
        self.folder = make_scratch(self.options.keep_folder)
        if not self.options.keep_folder:
            self._exit.callback(remove_scratch, self.folder)
        parts = self._make_parts()
        for part in parts:
            self._exit.callback(part.stop)
        with ThreadPoolExecutor(max(1, len(parts))) as pool:
            starts = [pool.submit(part.start) for part in parts]
        for start in starts:
            start.result()
        self._interruption.check()
        self.parts = PartKeeper(parts)
        self.parts.start()
        self._exit.callback(self.parts.stop)
        self.push_config()
        if not self.etcd:
            self._exit.callback(self._empty_etcd)
        self._interruption.check()
        self._start_machines()

    def _check_packages(self) -> None:
        missing = [] if self.options.ec2_endpoint else [n for n in ("moto", "flask") if not importlib.util.find_spec(n)]
        if not self.options.etcd:
            try:
                etcd_binary()
            except HostError:
                missing.append("etcd")
        if missing:
            raise HostError(
                f"The local cloud needs {' and '.join(missing)}, which this machine does not have; "
                f"install it with `pip install '{EXTRA}'` in a checkout."
            )
        if self.options.clearml_host and not self._caller.get("CLEARML_API_ACCESS_KEY"):
            raise ConfigError(
                f"There are no credentials for the ClearML server {self.options.clearml_host}; set CLEARML_API_ACCESS_KEY and "
                "CLEARML_API_SECRET_KEY."
            )

    def _make_parts(self) -> tuple[Part, ...]:
        parts = []
        if not self.options.etcd:
            parts += self._make_etcd()
        if not self.options.ec2_endpoint:
            images = [pool.ami for pool in self.config.pools]
            ec2 = self._ec2 = Ec2DoubleProcess(
                self.folder / "ec2", self.options.ec2_port, images=images, host=self._host(EC2)
            )
            parts.append(Part(EC2, ec2.start, ec2.restart, ec2.stop, ec2.kill, lambda: ec2.running))
        if not self.options.clearml_host:
            clearml = self._clearml = ClearmlApiProcess(
                self.folder / "clearml", self.options.clearml_port, self.options.faults, host=self._host(CLEARML)
            )
            parts.append(
                Part(
                    CLEARML, clearml.start, clearml.restart, clearml.stop, clearml.kill, lambda: clearml.pid is not None
                )
            )
        return tuple(parts)

    def _make_etcd(self) -> list[Part]:
        folder, port, size = self.folder / "etcd", self.options.etcd_port, self.options.etcd_members
        if size == 1:
            etcd = EtcdProcess(folder, port, host=self._host(ETCD))
            self.etcd = (etcd,)
            return [Part(ETCD, etcd.start, etcd.restart, etcd.stop, etcd.kill, lambda: etcd.running)]
        names = [f"{ETCD}-{number}" for number in range(size)]
        self.etcd = tuple(EtcdProcess(folder / name, name=name, host=self._host(name)) for name in names)
        return [self._member(member) for member in self.etcd]

    def _member(self, member: EtcdProcess) -> Part:
        """One of several: it answers only when others do, so nobody waits for a single one that is started again."""

        def start() -> None:
            member.launch(self.etcd)
            member.wait_ready()

        def restart() -> None:
            member.launch(self.etcd)

        return Part(member.name, start, restart, member.stop, member.kill, lambda: member.running)

    def _host(self, part: str) -> str:
        return self.options.ground.server_address(part) if self.options.ground else "127.0.0.1"

    def _direct(self) -> dict[str, str]:
        """What keeps a proxy in the environment away from servers that are not on loopback."""
        if self.options.ground is None:
            return {}
        servers = self.options.ground.server_addresses
        direct = ",".join(filter(None, (self._caller.get("NO_PROXY"), "127.0.0.1,localhost", *servers)))
        return {"NO_PROXY": direct, "no_proxy": direct}

    def push_config(self, config: ScalerConfig | None = None) -> None:
        """Publish the world's configuration, or another one for the same cluster."""
        store = self.address.etcd.open(timeout_s=_PUSH_TIMEOUT_S)
        try:
            push_config(store, self.keys, config or self.config)
        finally:
            store.close()

    def create_queues(self) -> None:
        """Create the pools' queues in our own ClearML, for who enqueues before there is a leader, which creates them otherwise."""
        from scaler_plugin.clearml_server.api import ClearmlServer  # noqa: PLC0415

        if self._clearml is None:
            return
        known = self._clearml.client_environment()
        keys = known["CLEARML_API_ACCESS_KEY"], known["CLEARML_API_SECRET_KEY"]
        with closing(ClearmlServer(known["CLEARML_API_HOST"], *keys, credentials_source="the local cloud")) as server:
            for queue in dict.fromkeys(queue for pool in self.config.pools for queue in pool.queues):
                server.create_queue(QueueName(queue))

    def _empty_etcd(self) -> None:
        """Take the cluster's keys out of an etcd that goes on without us."""
        with suppress(StoreError):
            store = self.open_store()
            try:
                keys = [entry.key for entry in store.get_prefix(self.keys.root)]
                for start in range(0, len(keys), _KEYS_AT_ONCE):
                    store.transact([], [Delete(key) for key in keys[start : start + _KEYS_AT_ONCE]])
            finally:
                store.close()

    def _start_machines(self) -> None:
        instances = self._instances()
        if instances is not None:
            self.machines = Machines(
                instances,
                self.folder / "machines",
                self._caller,
                self._cloud_in,
                self.options.boot_delay_s,
                ground=self.options.ground,
                steady=self.options.steady,
            )
            self.machines.start()
            self._exit.callback(self.machines.stop)

    def _instances(self) -> Instances | None:
        """Whose machines we have to run: those of our double, and of a foreign EC2 endpoint that has none itself."""
        if self._ec2 is not None:
            return DoubleInstances(self._ec2.url)
        endpoint = self.options.ec2_endpoint or ""
        if (urlsplit(endpoint).hostname or "").endswith(("amazonaws.com", "amazonaws.com.cn")):
            return None
        if DoubleInstances(endpoint).answers():
            return None  # another local cloud, which runs them
        return ApiInstances(self.ec2_client(), self.config.cluster)

    def ec2_client(self) -> Any:
        """boto3's client for this world's EC2."""
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        environment = self.aws_environment()
        session = boto3.Session(
            aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=environment.get("AWS_SESSION_TOKEN"),
            profile_name=environment.get("AWS_PROFILE"),
            region_name=environment["AWS_DEFAULT_REGION"],
        )
        settings = Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1, "mode": "standard"})
        return session.client("ec2", endpoint_url=environment["AWS_ENDPOINT_URL_EC2"], config=settings)

    def _cloud_in(self, region: str) -> dict[str, str]:
        return {**self.clearml_environment(), **self.aws_environment(), **self._direct(), "AWS_DEFAULT_REGION": region}


def stop_standby(machine: MachineProcess) -> None:
    """Shut a standby machine down in order. Harmless when it is off."""
    machine.press_power_button()
    machine.wait_off(STANDBY_STOP_S)
