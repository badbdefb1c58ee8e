"""Instances that cannot become nodes: each says why on its console, none stays up, and `status` shows the sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler_plugin.cloud.user_data import EtcdAccess, UserData
from scaler_plugin.core.model import NodeRole, PoolName

from .cloud import CLUSTER, STACK, Cloud, reference
from .machine import wait_for
from .stage import SECRET_FILE, Stage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

POOL = {"name": "cpu", "queues": ["ami-queue"], "max_instances": 9, "cpu_only": True, "idle_timeout": "never"}

WRONG_USER_DATA = "#!/bin/sh\necho hello\n"

NOT_OURS = "was not written by a scaler-sidecar"
UNKNOWN_POOL = "launched for pool nowhere, which the configuration of cluster ami does not have"


@pytest.fixture
def cloud(image: Path, tmp_path: Path, artifacts: Path) -> Iterator[Cloud]:
    cloud = Cloud(image, tmp_path, f"fs{os.getpid() % 100000}")
    try:
        yield cloud
    finally:
        (artifacts / "failed-starts-consoles.log").write_text(cloud.consoles())
        cloud.close()


def launch(cloud: Cloud, user_data: str) -> str:
    """By the pool's template, as everybody launches."""
    answer = cloud.aws_call(
        "ec2",
        "run_instances",
        LaunchTemplate={"LaunchTemplateName": f"{STACK}-cpu"},
        InstanceType="c5.large",
        MinCount=1,
        MaxCount=1,
        UserData=user_data,
    )
    return str(answer["Instances"][0]["InstanceId"])


def test_the_leader_ends_what_does_not_start_and_status_says_why(cloud: Cloud, artifacts: Path) -> None:
    cloud.store_secrets()
    config = cloud.write_config([{**POOL, "startup_timeout": "40s"}], zero={"mode": "standby"})
    cloud.cli("bootstrap", "apply", config)
    cloud.cli("config", "push", config)
    cloud.cli("bootstrap", "first", config)
    (first,) = cloud.instances()
    wait_for("the first instance leads", lambda: (cloud.status()["leader"] or {}).get("node") == first, 120)

    endpoint = cloud.etcd.endpoint.removeprefix("https://")
    tls = {part: reference(f"etcd-{part}") for part in ("ca", "cert", "key")}

    def user_data(etcd: EtcdAccess, pool: str = "cpu") -> str:
        return UserData(CLUSTER, NodeRole.WORKER, etcd, pool=PoolName(pool)).render()

    wrong = {
        launch(cloud, WRONG_USER_DATA): NOT_OURS,
        launch(cloud, user_data(EtcdAccess((endpoint,), **tls), "nowhere")): UNKNOWN_POOL,
        launch(cloud, user_data(EtcdAccess((endpoint,), **{**tls, "key": reference("missing")}))): (
            f"ssm:/scaler-sidecar/{CLUSTER}/missing cannot be read: AWS answered ParameterNotFound"
        ),
        launch(cloud, user_data(EtcdAccess(("10.88.0.1:9",), **tls))): "etcd at 10.88.0.1:9 did not answer",
    }

    def told() -> dict[str, str]:
        return {problem["about"]: problem["what"] for problem in cloud.status()["problems"]}

    wait_for("status tells of all four", lambda: set(wrong) <= set(told()), 180)
    for instance, sentence in wrong.items():
        assert sentence in told()[instance], instance
    wait_for("EC2 has ended them", lambda: cloud.alive() == [first], 60)
    shown = cloud.cli("status", "--config", config)
    (artifacts / "failed-starts-status.txt").write_text(shown)
    assert "cannot be read: AWS answered ParameterNotFound" in " ".join(shown.split())


def test_the_first_instance_that_does_not_come_up_is_told_by_the_command_that_launched_it(cloud: Cloud) -> None:
    cloud.setting("scaler-deadman.service", "[Service]\nEnvironment=DEADMAN_GRACE_S=0\n")
    cloud.setting("scaler-deadman.timer", "[Timer]\nOnBootSec=12\nOnUnitInactiveSec=2\nAccuracySec=1\n")
    cloud.store_secrets()
    pool = {**POOL, "init_script": "echo no such disk; exit 7", "startup_timeout": "30s"}
    config = cloud.write_config([pool], zero={"mode": "standby"})
    cloud.cli("bootstrap", "apply", config)
    assert "etcd holds no configuration" in cloud.cli("bootstrap", "first", config, code=2)
    cloud.cli("config", "push", config)
    said = " ".join(cloud.cli("bootstrap", "first", config, code=1).split())
    (first,) = cloud.instances()
    assert f"{first} told: The pool's init_script failed with exit code 7" in said
    assert "ended without becoming a node. It said: The pool's init_script failed with exit code 7" in said
    (problem,) = [problem for problem in cloud.status()["problems"] if problem["about"] == first]
    assert "could not be set up: The pool's init_script failed with exit code 7" in problem["what"]
    assert "no such disk" in problem["detail"]


@pytest.mark.parametrize("case", ["wrong user-data", "unknown pool", "missing secret", "etcd unreachable"])
def test_without_a_leader_the_machine_says_why_and_powers_itself_off(
    image: Path, tmp_path: Path, artifacts: Path, case: str
) -> None:
    stage = Stage(image, tmp_path, f"fs{os.getpid() % 100000}")
    try:
        # Its time is over soon, and no leader is waited for.
        stage.setting("scaler-deadman.service", "[Service]\nEnvironment=DEADMAN_STARTUP_S=1 DEADMAN_GRACE_S=0\n")
        stage.setting("scaler-deadman.timer", "[Timer]\nOnBootSec=12\nOnUnitInactiveSec=2\nAccuracySec=1\n")
        stage.push_config(startup_timeout="1s")
        etcd = stage.etcd.endpoint

        def user_data(endpoint: str, pool: str = "cpu") -> str:
            return UserData(CLUSTER, NodeRole.WORKER, EtcdAccess((endpoint,)), pool=PoolName(pool)).render()

        given, sentence = {
            "wrong user-data": (WRONG_USER_DATA, NOT_OURS),
            "unknown pool": (user_data(etcd, "nowhere"), UNKNOWN_POOL),
            "missing secret": (user_data(etcd), f"file:{SECRET_FILE} cannot be read: the file is empty"),
            "etcd unreachable": (user_data("127.0.0.1:9"), "etcd at 127.0.0.1:9 did not answer"),
        }[case]
        if case == "missing secret":
            stage.file(SECRET_FILE, "", 0o600)
        stage.launch(user_data=given)
        assert stage.machine.wait_ended(180) == 0
        assert sentence in stage.machine.console
        assert "nothing works here: powering off" in stage.machine.console
        told = json.loads(stage.sidecar_command("status", "--json"))["problems"]
        by_itself = [problem["what"] for problem in told if problem["about"] == stage.instance_id]
        if case in ("unknown pool", "missing secret"):  # those that reach the cluster's etcd
            assert [sentence in what for what in by_itself] == [True], told
        stage.machine_is_off()
        wait_for("the instance is terminated", lambda: stage.instance_state() == "terminated")
    finally:
        (artifacts / f"failed-start-{case.replace(' ', '-')}.log").write_text(stage.machine.console)
        stage.close()
