"""A node whose tasks run in containers of an image that was pulled when its own image was baked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import task_image
from .machine import METADATA_ADDRESS, wait_for
from .stage import CLUSTER, INSTANCE_TYPE, POOL, Stage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

TOKEN_URL = f"http://{METADATA_ADDRESS}/latest/api/token"

#: Ends, well or not, once the test lets it: it says so by a file in the container.
UNTIL_LET_GO = """
import os, time
while not os.path.exists("/go"):
    time.sleep(0.2)
"""
ASK_METADATA = f"""
import os, sys, urllib.request
assert os.path.exists("/.dockerenv"), "not in a container"
request = urllib.request.Request("{TOKEN_URL}", method="PUT", headers={{"X-aws-ec2-metadata-token-ttl-seconds": "60"}})
try:
    answer = urllib.request.urlopen(request, timeout=3).read()
except OSError as error:
    print("kept away:", error, flush=True)
else:
    sys.exit(f"the metadata service answered: {{answer}}")
"""


@pytest.fixture(scope="module")
def docker_image(image: Path) -> str:
    """The task image as the baked machine's docker knows it."""
    return task_image.pulled(image)


@pytest.fixture(scope="module")
def node(image: Path, docker_image: str, tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Iterator[Stage]:
    stage = Stage(image, tmp_path_factory.mktemp("docker"), f"ami-docker-{os.getpid()}")
    try:
        push_config(stage, docker_image, idle_timeout="never")
        stage.launch(hop_limit=1)
        stage.wait_polling()
        yield stage
    finally:
        (artifacts / "console-docker.log").write_text(stage.machine.console)
        stage.close()


def push_config(stage: Stage, docker_image: str, **pool: str) -> None:
    stage.push_config(docker_image=docker_image, cpu_only=False, extra_clearml_conf=task_image.OFFLINE_CONF, **pool)


def containers(node: Stage) -> list[str]:
    """Ids of the containers that bear this node's agent's label."""
    label = f"label=clearml-worker-id={CLUSTER}:{POOL}:{INSTANCE_TYPE}:{node.instance_id}"
    return node.machine.run("docker", "ps", "--quiet", "--filter", label).split()


def work_seen_by_the_sidecar(node: Stage) -> list[str]:
    """Tasks that the node's record in etcd names."""
    nodes = json.loads(node.sidecar_command("status", "--json"))["nodes"]
    (found,) = [one for one in nodes if one["instance_id"] == node.instance_id]
    return [slot["task_id"] for slot in found["slots"] if slot["state"] == "busy"]


def wait_ended(node: Stage, task: str) -> str:
    wait_for("the task has ended", lambda: node.task_status(task) not in ("queued", "in_progress"), 120)
    return node.task_status(task)


def test_the_image_that_was_pulled_ahead_is_there(node: Stage, docker_image: str) -> None:
    listed = node.machine.run("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert listed == [docker_image]


def test_a_task_runs_in_a_container_and_the_sidecar_sees_it(node: Stage) -> None:
    task = node.enqueue(UNTIL_LET_GO)
    (container,) = wait_for("a container of the agent", lambda: containers(node), 120)
    wait_for("the task runs", lambda: node.task_status(task) == "in_progress", 60)
    wait_for("the sidecar sees it", lambda: work_seen_by_the_sidecar(node) == [task])
    node.machine.run("docker", "exec", container, "touch", "/go")
    assert wait_ended(node, task) == "completed"
    wait_for("the sidecar sees nothing", lambda: work_seen_by_the_sidecar(node) == [])


def test_a_task_in_a_container_cannot_reach_the_metadata_service(node: Stage) -> None:
    assert wait_ended(node, node.enqueue(ASK_METADATA)) == "completed"


def test_the_hop_limit_alone_keeps_containers_away_from_the_metadata_service(node: Stage, docker_image: str) -> None:
    machine = node.machine
    ask = f"""import urllib.request
urllib.request.urlopen(urllib.request.Request("{TOKEN_URL}", method="PUT",
    headers={{"X-aws-ec2-metadata-token-ttl-seconds": "60"}}), timeout=5)"""
    machine.run("nft", "delete", "table", "inet", "scaler_sidecar")
    try:
        in_bridge = machine.try_run("docker", "run", "--rm", docker_image, "python", "-c", ask)
        assert in_bridge.returncode != 0
        assert "timed out" in in_bridge.stderr
        # On the node's own network, no hop further away, the same is answered.
        machine.run("docker", "run", "--rm", "--network=host", docker_image, "python", "-c", ask)
    finally:
        machine.run("systemctl", "restart", "scaler-firewall.service")


def test_a_container_that_outlives_its_killed_agent_keeps_the_node_from_retiring(
    node: Stage, docker_image: str
) -> None:
    machine = node.machine
    node.enqueue(UNTIL_LET_GO)
    (container,) = wait_for("a container of the agent", lambda: containers(node), 120)
    push_config(node, docker_image, idle_timeout="3s")
    # The agent, and the `docker run` that it started: what is left is docker's and nobody's child.
    client = machine.run("pgrep", "--full", "^docker run").strip()
    agent = machine.property_of("clearml-agent@0.service", "MainPID")
    machine.run("kill", "-9", agent, client)
    wait_for(
        "systemd started another", lambda: machine.property_of("clearml-agent@0.service", "MainPID") not in (agent, "0")
    )
    dead_man = machine.run("env", "DEADMAN_SILENCE_S=0", "/usr/lib/scaler-sidecar/deadman")
    assert "a task's container runs: the machine stays on" in dead_man
    # Longer than the idle timeout: the node would be off by now if it took itself for idle.
    waited_since = time.monotonic()
    wait_for("twice the idle timeout has passed", lambda: time.monotonic() - waited_since > 6)
    assert machine.running
    assert containers(node) == [container]
    machine.run("docker", "exec", container, "touch", "/go")
    assert machine.wait_ended(120) == 0, machine.console
