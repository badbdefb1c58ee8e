"""Where things lie in etcd. Everything of a cluster begins with ``/<prefix>/<cluster>/``; nothing is ever written beside it."""

from __future__ import annotations

from dataclasses import dataclass

from scaler_plugin.core.model import InstanceId, LaunchId, PoolName, TaskId
from scaler_plugin.errors import ConfigError


@dataclass(frozen=True)
class Keys:
    """The keys of one cluster. Properties in the plural, and ``events`` and ``requests``, are prefixes."""

    prefix: str
    cluster: str

    def __post_init__(self) -> None:
        if not self.prefix.strip("/"):
            raise ConfigError(f"the etcd prefix {self.prefix!r} is empty; set one, such as /scaler")
        if not self.cluster or "/" in self.cluster:
            raise ConfigError(f"the cluster name {self.cluster!r} cannot be part of an etcd key; use one without '/'")

    @property
    def root(self) -> str:
        return f"/{self.prefix.strip('/')}/{self.cluster}/"

    @property
    def config(self) -> str:
        return f"{self.root}config"

    @property
    def leader(self) -> str:
        return f"{self.root}leader"

    @property
    def view(self) -> str:
        return f"{self.root}view"

    @property
    def nodes(self) -> str:
        return f"{self.root}nodes/"

    def node(self, instance_id: InstanceId) -> str:
        return f"{self.nodes}{instance_id}"

    def condemned(self, instance_id: InstanceId) -> str:
        """The mark on an instance that is about to be terminated because it never registered."""
        return f"{self.root}condemned/{instance_id}"

    @property
    def launches(self) -> str:
        return f"{self.root}launches/"

    def launch(self, launch_id: LaunchId) -> str:
        return f"{self.launches}{launch_id}"

    def retire(self, pool: PoolName) -> str:
        """Who of this pool retired last: what nodes that want to retire at the same moment compare."""
        return f"{self.root}pools/{pool}/retire"

    @property
    def retire_any(self) -> str:
        """The same for the whole cluster, where its last node must stay."""
        return f"{self.root}retire"

    @property
    def cooldowns(self) -> str:
        return f"{self.root}cooldowns/"

    def cooldown(self, pool: PoolName) -> str:
        return f"{self.cooldowns}{pool}"

    @property
    def starts(self) -> str:
        """How the instances of each pool start lately."""
        return f"{self.root}starts/"

    def start(self, pool: PoolName) -> str:
        return f"{self.starts}{pool}"

    @property
    def former_queues(self) -> str:
        """Queues that are configured no more, but may have tasks on living instances."""
        return f"{self.root}former-queues"

    @property
    def events(self) -> str:
        return f"{self.root}events/"

    @property
    def requests(self) -> str:
        return f"{self.root}requests/"

    @property
    def node_requests(self) -> str:
        """What people ask of single nodes."""
        return f"{self.requests}nodes/"

    def drain_request(self, instance_id: InstanceId) -> str:
        return f"{self.node_requests}{instance_id}/drain"

    def protect_request(self, instance_id: InstanceId) -> str:
        return f"{self.node_requests}{instance_id}/protect"

    @property
    def handbacks(self) -> str:
        return f"{self.root}handbacks/"

    def handback(self, instance_id: InstanceId, task_id: TaskId) -> str:
        """A node's promise to put the task back into its queue."""
        return f"{self.handbacks}{instance_id}/{task_id}"

    def renewal(self, pool: PoolName, place: int) -> str:
        """One of the places of a pool whose holder may leave because it has come of age."""
        return f"{self.root}pools/{pool}/renewal/{place}"
