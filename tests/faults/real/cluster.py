"""A whole cluster of real processes for one scenario: three etcd members, two standby sidecars, workers with real agents, each in a
network namespace of its own, the ClearML stand-in and the EC2 double."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from zlib import crc32

import requests

from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.election import LeaderRecord, read_leader
from scaler_plugin.coordination.events import Event
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.core.model import Node, SlotState
from scaler_plugin.errors import StoreError
from scaler_plugin.localcloud.default_config import REGION
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID
from scaler_plugin.localcloud.machines.folder import SIDECAR, MachineFolder
from scaler_plugin.localcloud.machines.ground import NamespaceGround
from scaler_plugin.localcloud.machines.process import MachineProcess
from scaler_plugin.localcloud.world import EC2, World

from ...waiting import until
from .invariants import check_all, terms_of
from .record import TIMEOUT_S, Record, Run, read_ec2, read_history, read_runs, read_tasks
from .tasks import Clearml

QUEUE = "faults"
STANDBYS = ("standby-a", "standby-b")
LEADER_TTL_S = 5
IDLE_TIMEOUT_S = 3
#: For what must happen by itself, on a host with more processes than cores.
PATIENCE_S = 240.0
#: From "nothing left to do" to "terminated": far below what no idle timeout but only some leader's later check would need.
GONE_WITHIN_S = PATIENCE_S


def make_config(max_instances: int = 3, **pool: Any) -> ScalerConfig:
    """One pool; ``pool`` overrides its settings."""
    settings = {
        "name": "cpu",
        "queues": [QUEUE],
        "instance_types": ["c5.large"],
        "ami": DEMO_IMAGE_ID,
        "max_instances": max_instances,
        "idle_timeout": f"{IDLE_TIMEOUT_S}s",
        "startup_timeout": "180s",
        "cpu_only": True,
        **pool,
    }
    return ScalerConfig.model_validate(
        {
            "cluster": "faults",
            "poll_interval": "1s",
            "leader_ttl": f"{LEADER_TTL_S}s",
            "aws": {"region": REGION},
            "pools": [settings],
        }
    )


class Cluster:
    """Everything that a scenario does and asks. Its methods wait for what they name, or fail with the last that was seen."""

    def __init__(self, world: World, ground: NamespaceGround, report: Callable[[str, object], None]) -> None:
        self.world = world
        self.ground = ground
        self.report = report
        self.tasks: list[str] = []
        self.ledger = world.folder / "runs.jsonl"
        self.store = world.open_store()
        environment = world.clearml_environment()
        keys = (environment["CLEARML_API_ACCESS_KEY"], environment["CLEARML_API_SECRET_KEY"])
        self.clearml = Clearml(environment["CLEARML_API_HOST"], keys)
        self.ec2_url = world.aws_environment()["AWS_ENDPOINT_URL_EC2"]
        self.etcd_servers = tuple(member.name for member in world.etcd)
        self._histories: list[Any] = []
        self.standbys: dict[str, MachineProcess] = {}
        for name in STANDBYS:
            self.standbys[name] = world.start_standby(restart_after_s=1.0, name=name)
        self.wait_for("a leader", lambda: self.leader() is not None)

    # What is done.

    def enqueue(
        self, number: int, seconds: float, checkpoint: Path | None = None, release: Path | None = None
    ) -> list[str]:
        new = [self.clearml.enqueue(QUEUE, seconds, self.ledger, checkpoint, release) for _ in range(number)]
        self.tasks += new
        return new

    def hold(self, number: int = 1, checkpoint: Path | None = None) -> Path:
        """Tasks that work until the file that is returned exists."""
        release = self.world.folder / f"release-{len(self.tasks)}"
        self.enqueue(number, 3600, checkpoint, release)
        self.wait_for("all tasks running", self.all_run)
        return release

    def kill(self, machine: str, unit: str = SIDECAR, number: int = signal.SIGKILL) -> int:
        pid = self.unit(machine, unit)
        os.kill(pid, number)
        return pid

    def fail_ec2(self, **fault: Any) -> None:
        """Inject a fault (``localcloud.ec2.faults``)."""
        requests.post(f"{self.ec2_url}/_faults", json=fault, timeout=TIMEOUT_S).raise_for_status()

    def recover_ec2(self) -> None:
        requests.delete(f"{self.ec2_url}/_faults", timeout=TIMEOUT_S).raise_for_status()

    def wipe_etcd(self) -> None:
        """All members lose all they had, and start again as a new etcd; what it held is kept for the record."""
        self._histories.append(read_history(self.world.etcd[0].endpoint, self.world.keys.root))
        for member in self.world.etcd:
            self.world.parts.outage(member.name, 2.0)
        for member in self.world.etcd:
            member.wipe()

    def folder(self, machine: str) -> MachineFolder:
        return MachineFolder(self.world.folder / "machines" / machine)

    # What is seen.

    def leader(self) -> LeaderRecord | None:
        """Who leads, as a machine's name in ``candidate``; ``None`` also while etcd does not answer."""
        try:
            found = read_leader(self.store, self.world.keys)
        except StoreError:
            return None
        return found and LeaderRecord(self.machine(found.candidate), found.term, found.since)

    def must_lead(self) -> LeaderRecord:
        self.wait_for("a leader", lambda: self.leader() is not None)
        found = self.leader()
        assert found is not None
        return found

    def nodes(self) -> tuple[Node, ...]:
        try:
            return read_nodes(self.store, self.world.keys)
        except StoreError:
            return ()

    def busy(self) -> list[str]:
        """The machines whose sidecar says that a task runs on them."""
        return [n.instance_id for n in self.nodes() if any(slot.state is SlotState.BUSY for slot in n.slots)]

    def unit(self, machine: str, unit: str = SIDECAR) -> int:
        """The process id of a unit; waits until it runs."""

        def find() -> int | None:
            if machine in self.standbys:
                return self.standbys[machine].report.units.get(unit)
            assert self.world.machines is not None
            reports = {report.name: report for report in self.world.machines.reports()}
            return reports[machine].units.get(unit) if machine in reports else None

        return until(find, f"{unit} of {machine} runs", PATIENCE_S) or 0

    def clearml_calls(self, since: float, address: str) -> list[dict[str, Any]]:
        calls = requests.get(f"{self.clearml.url}/_journal", timeout=TIMEOUT_S).json()
        return [call for call in calls if call["t"] >= since and call["address"] == address]

    def events(self, kind: str) -> list[Event]:
        try:
            return [event for event in read_events(self.store, self.world.keys) if event.kind == kind]
        except StoreError:
            return []

    def runs(self) -> list[Run]:
        begun = Record()
        read_runs(begun, self.ledger)
        return begun.runs

    def all_run(self) -> bool:
        """The program of every task runs, and both ClearML and etcd know of it."""
        statuses = self.clearml.statuses(self.tasks)
        known = set(statuses.values()) == {"in_progress"} and len(self.busy()) == len(self.tasks)
        return known and {run.task for run in self.runs()} == set(self.tasks)

    def all_completed(self) -> bool:
        return set(self.clearml.statuses(self.tasks).values()) == {"completed"}

    def instances(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = requests.get(f"{self.ec2_url}/_instances", timeout=TIMEOUT_S).json()
        return found

    def wait_for(self, what: str, condition: Callable[[], object]) -> float:
        """Seconds that it took."""
        began = time.monotonic()
        until(condition, what, PATIENCE_S, seen=self._scene, every_s=0.1)
        return time.monotonic() - began

    def etcd_leader(self) -> str:
        """The member that leads etcd itself."""
        for member in self.world.etcd:
            answer = requests.post(f"{member.endpoint}/v3/maintenance/status", json={}, timeout=TIMEOUT_S).json()
            if answer["leader"] == answer["header"]["member_id"]:
                return member.name
        raise AssertionError("no member leads etcd")

    def last(self, task: str, new: str) -> float:
        """When ClearML last moved the task into this status."""
        lines = requests.get(f"{self.clearml.url}/_transitions", timeout=TIMEOUT_S).json()
        moments: list[float] = [line["t"] for line in lines if (line["task"], line["to"]) == (task, new)]
        return moments[-1]

    def must_end_well(
        self, disturbed: Collection[str] = frozenset(), unreported: Collection[str] = frozenset()
    ) -> Record:
        """Every task completes, every instance goes, and every invariant holds."""
        self.wait_for("the completion of every task", self.all_completed)
        self.wait_for(
            "the end of every instance", lambda: all(one["state"] == "terminated" for one in self.instances())
        )
        record = Record(histories=[*self._histories, read_history(self.world.etcd[0].endpoint, self.world.keys.root)])
        read_tasks(record, self.clearml.url, self.clearml.auth)
        read_runs(record, self.ledger)
        read_ec2(record, self.ec2_url, self.world.folder / EC2 / "changes.jsonl")
        self.report("tasks", len(record.statuses))
        self.report("runs", len(record.runs))
        self.report("instances", len(record.instances))
        self.report("terms", len(terms_of(record, self.world.keys)))
        check_all(record, self.world.config, GONE_WITHIN_S, disturbed, unreported)
        return record

    def _scene(self) -> str:
        instances = {one["id"]: one["state"] for one in self.instances()}
        slots = {node.instance_id: [slot.state.value for slot in node.slots] for node in self.nodes()}
        tasks = self.clearml.statuses(self.tasks) if self.tasks else {}
        return json.dumps({"leader": str(self.leader()), "instances": instances, "slots": slots, "tasks": tasks})

    def machine(self, candidate: str) -> str:
        """A standby sidecar names itself after its host and its state directory."""
        for name, machine in self.standbys.items():
            path = bytes(machine.folder.state.absolute())
            if candidate == f"standby-{socket.gethostname()}-{crc32(path) & 0xFFFF:04x}":
                return name
        return candidate
