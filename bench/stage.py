"""The stage for measurements on real processes: the local cloud with candidates that lead or wait. Nothing here is measured."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.election import LeaderRecord, read_leader
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.published_view import read_view
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import InstanceId, NodeIdentity, NodeRole
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.world import World, WorldOptions
from scaler_plugin.node.process import SETUP_VARIABLE
from scaler_plugin.node.setup import NodeSetup

CLUSTER = "bench"
QUEUE = "bench-cpu"
PATIENCE_S = 120.0


def config(**pool: Any) -> ScalerConfig:
    """The defaults (poll interval 2 s, TTL 10 s) but for what is given: ``leader_ttl`` of the cluster, the rest of its pool."""
    top = {name: pool.pop(name) for name in ("leader_ttl", "poll_interval") if name in pool}
    rules = {"ami": DEMO_IMAGE_ID, "max_instances": 100, "cpu_only": True, **pool}
    pools = [{"name": "cpu", "queues": [QUEUE], "instance_types": ["c5.large"], **rules}]
    settings = {"cluster": CLUSTER, "aws": {"region": "us-east-1"}, "pools": pools, **top}
    return ScalerConfig.model_validate(settings)


@dataclass
class Candidate:
    """A sidecar without an agent, as ``scaler-sidecar run --standby`` becomes it."""

    name: str
    process: subprocess.Popen[bytes]


class Stage:
    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.keys: Keys = world.keys
        self.store: Store = world.open_store()
        self._folder = folder
        self._candidates: list[Candidate] = []

    def candidate(self, name: str) -> Candidate:
        identity = NodeIdentity(CLUSTER, InstanceId(name), NodeRole.STANDBY, instance_type="standby")
        setup = NodeSetup(identity, self.world.address.etcd, self.world.address.prefix, slots=0)
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SCALER_", "AWS_", "CLEARML_"))},
            **self.world.exports(),
            SETUP_VARIABLE: encode(setup),
            "SCALER_STATE_DIR": str(folder),
        }
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "scaler_plugin.node"], stdin=subprocess.DEVNULL, stderr=log, env=environment
            )
        candidate = Candidate(name, process)
        self._candidates.append(candidate)
        return candidate

    def leader(self) -> LeaderRecord | None:
        return read_leader(self.store, self.keys)

    def await_first_pass(self, after_term: int = 0) -> LeaderRecord:
        """Wait until a leader of a later term has published its view, which ends its first pass."""

        def led() -> LeaderRecord | None:
            view, leader = read_view(self.store, self.keys), self.leader()
            return leader if leader and view and view.term == leader.term > after_term else None

        return wait_for(led, "a leader's first pass")

    def ask_ec2(self, path: str) -> Any:
        return get_json(f"{self.world.aws_environment()['AWS_ENDPOINT_URL_EC2']}{path}")

    def ask_clearml(self, path: str) -> Any:
        return get_json(f"{self.world.clearml_environment()['CLEARML_API_HOST']}{path}")

    def call_clearml(self, action: str, body: Mapping[str, Any]) -> Any:
        clearml = self.world.clearml_environment()
        keys = f"{clearml['CLEARML_API_ACCESS_KEY']}:{clearml['CLEARML_API_SECRET_KEY']}".encode()
        headers = {"Authorization": f"Basic {base64.b64encode(keys).decode()}", "Content-Type": "application/json"}
        url = f"{clearml['CLEARML_API_HOST']}/{action}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - our own stand-in
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.load(answer)["data"]

    def close(self) -> None:
        for candidate in self._candidates:
            candidate.process.terminate()
        for candidate in self._candidates:
            try:
                candidate.process.wait(15)
            except subprocess.TimeoutExpired:
                candidate.process.kill()
                candidate.process.wait()
        self.store.close()


@contextmanager
def stage(settings: ScalerConfig, *, boot_delay_s: float = 3600.0) -> Iterator[Stage]:
    """A local cloud of its own with these settings; by default its instances stay pending."""
    with World(WorldOptions(config=settings, boot_delay_s=boot_delay_s), Interruption()) as world:
        made = Stage(world, world.folder)
        try:
            yield made
        finally:
            made.close()


def wait_for(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S, every_s: float = 0.01) -> Any:
    """The condition's first answer that is true."""
    deadline = time.monotonic() + patience_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {patience_s:.0f} s")
        time.sleep(every_s)
    return answer


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own stand-ins
        return json.load(answer)
