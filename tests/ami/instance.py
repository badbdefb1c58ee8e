"""One instance of the account of :mod:`.cloud`: the machine that boots the baked image, and the host that it runs on.

As on EC2 the metadata service is on the host, one hop away, answers this machine only, and its answers live for one hop. The host
is also the machine's router: every other server is behind it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from scaler_plugin.cloud.metadata import InstanceFacts
from scaler_plugin.core.model import InstanceId
from scaler_plugin.localcloud.imds import ImdsServer, RoleCredentials
from scaler_plugin.localcloud.machines.instances import WantedInstance

from .machine import METADATA_ADDRESS, Machine, NetworkNamespace, Overlay
from .stage import docker_data_options

#: What the node's role gives to whoever reaches the metadata service.
ROLE = RoleCredentials("node", "ASIANODEROLE", "node-role-secret", "node-role-session")


class Network:
    """The account's network: a bridge on which servers and hosts meet. ``address`` is where servers listen."""

    address = "10.88.0.1"

    def __init__(self, name: str) -> None:
        self.namespace = NetworkNamespace(name)
        self.namespace.ip("link", "add", "br0", "type", "bridge")
        self.namespace.ip("address", "add", f"{self.address}/16", "dev", "br0")
        self.namespace.ip("link", "set", "br0", "up")

    def connect(self, host: NetworkNamespace, number: int) -> None:
        """Lay a cable to the host of this number, whose machine then reaches the servers and is reached."""
        outer = f"10.88.1.{number}"
        self.namespace.ip("link", "add", f"v{number}", "type", "veth", "peer", "name", "up0", "netns", host.name)
        self.namespace.ip("link", "set", f"v{number}", "master", "br0", "up")
        host.ip("address", "add", f"{outer}/16", "dev", "up0")
        host.ip("link", "set", "up0", "up")
        self.namespace.ip("route", "replace", f"{_machines_net(number)}.0/24", "via", outer)

    def remove(self) -> None:
        self.namespace.remove()


class Instance:
    """Made, it boots. ``settings`` are files over the image: path and text. Only with ``docker`` it has the image's containers."""

    def __init__(
        self,
        wanted: WantedInstance,
        user_data: str,
        number: int,
        image: Path,
        folder: Path,
        network: Network,
        settings: dict[str, str],
        docker: bool,
    ) -> None:
        self.instance_id = InstanceId(wanted.instance_id)
        self.told = "pending"
        self.console_size = 0
        self._cleanup = ExitStack()
        try:
            self._host = self._namespace(f"{network.namespace.name}-h{number}")
            self._network = self._namespace(f"{network.namespace.name}-m{number}")
            self._lay_cable(network, number)
            facts = InstanceFacts(
                self.instance_id, wanted.instance_type, wanted.zone, wanted.region, wanted.market, user_data
            )
            metadata = ImdsServer(facts, 80, METADATA_ADDRESS, role=ROLE, hop_limit=1)
            self._host.call(metadata.start)
            self._cleanup.callback(metadata.stop)
            overlay = Overlay(image, folder / wanted.instance_id)
            self._cleanup.callback(overlay.remove)
            for path, text in settings.items():
                overlay.write(path, text)
            options = docker_data_options(image, folder / f"{wanted.instance_id}-docker") if docker else []
            console = folder / f"{number}-{wanted.instance_id}.log"
            self.machine = Machine(overlay.root, console, self._network, options)
            self._cleanup.callback(self.machine.destroy)
            self.machine.start()
        except BaseException:
            self._cleanup.close()
            raise

    def remove(self) -> None:
        self._cleanup.close()

    def _namespace(self, name: str) -> NetworkNamespace:
        namespace = NetworkNamespace(name)
        self._cleanup.callback(namespace.remove)
        return namespace

    def _lay_cable(self, network: Network, number: int) -> None:
        inner = _machines_net(number)
        self._network.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self._host.name)
        for namespace, address in ((self._network, f"{inner}.2/24"), (self._host, f"{inner}.1/24")):
            namespace.ip("address", "add", address, "dev", "eth0")
            namespace.ip("link", "set", "eth0", "up")
        self._host.ip("address", "add", f"{METADATA_ADDRESS}/32", "dev", "eth0")
        self._network.ip("route", "add", "default", "via", f"{inner}.1")
        network.connect(self._host, number)
        # The host routes. Docker wants the same in the machine, whose /proc/sys is read-only.
        for namespace in (self._host, self._network):
            namespace.call(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")


def _machines_net(number: int) -> str:
    return f"10.77.{number}"
