"""A cluster's life, day one to zero and back, on machines that boot the baked image.

Everything in the machines is the image's: units, firewall, agents. Everything that the administrator does is what docs/bootstrap.md
says. Tasks run in the image's own environment in the place of one that is downloaded (there is no package index in that network).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from . import task_image
from .cloud import DOCKER_POOL, Cloud
from .machine import wait_for

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

QUEUE = "ami-queue"
POOL = {"name": "cpu", "queues": [QUEUE], "max_instances": 3, "cpu_only": True, "idle_timeout": "15s"}
DOCKER_QUEUE = "ami-docker-queue"
#: The shortest that a schedule can.
PROBE = {"mode": "probe", "probe_every": "1m"}

#: A boot takes some seconds, four at a time on a small host more.
PATIENCE_S = 240.0

QUICK_TASKS = """[Service]
Environment=CLEARML_AGENT_SKIP_PIP_VENV_INSTALL=/opt/scaler-sidecar/venv/bin/python
Environment=CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL=1
"""


@pytest.fixture
def cloud(image: Path, tmp_path: Path, artifacts: Path, request: pytest.FixtureRequest) -> Iterator[Cloud]:
    cloud = Cloud(image, tmp_path, f"cl{os.getpid() % 100000}")
    cloud.setting("clearml-agent@.service", QUICK_TASKS)
    try:
        yield cloud
    finally:
        (artifacts / f"{request.node.name}-consoles.log").write_text(cloud.consoles())
        cloud.close()


def until(cloud: Cloud, what: str, condition: Any) -> Any:
    try:
        return wait_for(what, condition, PATIENCE_S)
    except AssertionError as late:
        shown = json.dumps(cloud.instances(), indent=1)
        raise AssertionError(f"{late}\n{shown}\n{cloud.tasks()}\n{cloud.consoles()}") from None


def states(cloud: Cloud, tasks: list[str]) -> set[str]:
    return {cloud.task(task)["status"] for task in tasks}


def worker_of(cloud: Cloud, task: str) -> str:
    return str(cloud.task(task).get("last_worker", ""))


def reported(cloud: Cloud, task: str) -> bool:
    shown = cloud.task(task)
    changed, updated = (
        datetime.fromisoformat(shown[name].replace("Z", "+00:00")) for name in ("status_changed", "last_update")
    )
    return shown["status"] == "in_progress" and updated > changed


def probes(cloud: Cloud) -> set[str]:
    return {id_ for id_, one in cloud.instances().items() if one["tags"].get("scaler-sidecar:role") == "probe"}


def leader(cloud: Cloud) -> str:
    found = cloud.status().get("leader") or {}
    return str(found.get("node", ""))


def docker_pool(image: Path) -> dict[str, Any]:
    return {
        **POOL,
        "name": DOCKER_POOL,
        "queues": [DOCKER_QUEUE],
        "docker_image": task_image.pulled(image),
        "extra_clearml_conf": task_image.OFFLINE_CONF,
    }


def test_from_day_one_over_a_burst_to_zero_and_back_by_the_probe(cloud: Cloud, image: Path) -> None:
    # Day one.
    cloud.store_secrets()
    config = cloud.write_config([POOL, docker_pool(image)], zero=PROBE)
    assert "is ready" in cloud.cli("bootstrap", "apply", config)
    cloud.cli("config", "push", config)
    cloud.cli("bootstrap", "first", config)
    # The schedule may have launched a probe, too.
    (first,) = set(cloud.instances()) - probes(cloud)
    until(cloud, "the first instance leads", lambda: leader(cloud) == first)
    assert cloud.clearml.secret_key not in cloud.instances()[first]["user_data"]

    # A burst: the leader launches the others, and each runs a task as the agents' own user.
    burst = cloud.hold()
    tasks = [cloud.enqueue(QUEUE, burst.script) for _ in range(3)]
    until(cloud, "all three run at once", lambda: states(cloud, tasks) == {"in_progress"})
    workers = {worker_of(cloud, task) for task in tasks}
    nodes = {worker.rpartition(":")[2] for worker in workers}
    assert len(workers) == 3, workers
    assert nodes <= set(cloud.instances())
    assert first in nodes
    # The leader's sidecar dies while its agent works: systemd starts it again, nobody's task notices.
    lead = cloud.machine(leader(cloud)).machine
    before = lead.property_of("scaler-sidecar.service", "MainPID")
    lead.run("kill", "-9", before)
    until(
        cloud, "another sidecar", lambda: lead.property_of("scaler-sidecar.service", "MainPID") not in (before, "0", "")
    )
    burst.let_go()
    until(cloud, "all are done", lambda: states(cloud, tasks) == {"completed"})
    assert {worker_of(cloud, task) for task in tasks} == workers, "none ran twice"

    # Another queue, whose pool runs its tasks in containers.
    in_container = cloud.enqueue(DOCKER_QUEUE, "import os\nassert os.path.exists('/.dockerenv')\n")
    until(cloud, "the task in a container is done", lambda: cloud.task(in_container)["status"] == "completed")
    nodes.add(worker_of(cloud, in_container).rpartition(":")[2])
    assert len(nodes) == 4

    # Idle: each shuts its own machine down, and EC2 terminates what has shut down.
    until(cloud, "nothing of the workers is left", lambda: not nodes & set(cloud.alive()))
    assert cloud.calls("TerminateInstances") == [], "every machine ends itself"
    assert {cloud.instances()[node]["reason_code"] for node in nodes} == {"Client.InstanceInitiatedShutdown"}

    # Zero. A probe that finds nothing ends by itself; one that finds a task launches a worker and leaves it the lead.
    rest = cloud.hold()
    late = cloud.enqueue(QUEUE, rest.script)
    until(cloud, "the task runs", lambda: cloud.task(late)["status"] == "in_progress")
    worker = worker_of(cloud, late).rpartition(":")[2]
    assert worker not in nodes
    assert probes(cloud)
    assert worker not in probes(cloud)
    rest.let_go()
    until(cloud, "the task is done", lambda: cloud.task(late)["status"] == "completed")
    until(cloud, "the worker is gone", lambda: worker not in cloud.alive())
    ended = {id_: one["reason_code"] for id_, one in cloud.instances().items() if one["state"] == "terminated"}
    assert set(ended.values()) == {"Client.InstanceInitiatedShutdown"}, ended
    assert cloud.calls("TerminateInstances") == [], "every machine ended itself"

    # The end.
    cloud.cli("bootstrap", "destroy", config, "--yes", "--terminate")
    assert cloud.alive() == []


def test_a_cluster_whose_machines_all_died_at_once_comes_back_and_runs_what_they_ran(cloud: Cloud) -> None:
    cloud.store_secrets()
    config = cloud.write_config([POOL], zero=PROBE)
    cloud.cli("bootstrap", "apply", config)
    cloud.cli("config", "push", config)
    cloud.cli("bootstrap", "first", config)
    held = cloud.hold()
    task = cloud.enqueue(QUEUE, held.script)
    # A task that its worker has not reported yet may be another's, and is put back a minute later: no matter of this test.
    until(cloud, "the task runs and its agent has reported it", lambda: reported(cloud, task))
    lost = worker_of(cloud, task)
    for instance in cloud.alive():
        cloud.machine(instance).machine.destroy()
    until(cloud, "another machine runs it", lambda: worker_of(cloud, task) != lost)
    held.let_go()
    until(cloud, "it is done", lambda: cloud.task(task)["status"] == "completed")
