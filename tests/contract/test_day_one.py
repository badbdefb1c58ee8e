"""Day one as docs/bootstrap.md tells it, up to a node that has booted: etcd knows nodes by certificates that SSM keeps.

etcd, its certificates, the secrets' commands, the configuration and the node's boot are those of the pages; AWS is the double. The
image's bake and the account's subnets are left out.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from scaler_plugin.cloud.metadata import ENDPOINT_VARIABLE, InstanceFacts
from scaler_plugin.core.model import InstanceId, Market
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID, Ec2DoubleProcess
from scaler_plugin.localcloud.imds import ImdsServer, RoleCredentials
from scaler_plugin.node.setup import read_setup

from .documented_etcd import Compose, RealEtcd

pytestmark = [pytest.mark.real, pytest.mark.slow]

DOCS = Path(__file__).parents[2] / "docs"
REGION = "eu-central-1"
#: "Value" in https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html, for standard parameters.
STANDARD_PARAMETER_BYTES = 4096
TYPED = {"clearml-access-key": "the-access-key", "clearml-secret-key": "the-secret-key"}


@dataclass
class Desk:
    """The administrator's machine: a folder with ``etcd-certs`` and ``scaler.yaml``, and rights at AWS."""

    folder: Path
    aws: Ec2DoubleProcess
    etcd: RealEtcd

    def run(self, *arguments: str, **environment: str) -> str:
        """``scaler-sidecar`` with these arguments and nothing of the caller's own."""
        done = subprocess.run(
            [sys.executable, "-m", "scaler_plugin", *arguments],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "AWS_CONFIG_FILE": "/dev/null",
                "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
                "AWS_ENDPOINT_URL": self.aws.url,
                **(environment or {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.aws.url,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )

    def boot(self, instance: str, user_data: str) -> Path:
        """``scaler-sidecar boot`` on this instance; its state directory."""
        facts = InstanceFacts(InstanceId(instance), "c6i.xlarge", f"{REGION}a", REGION, Market.ON_DEMAND, user_data)
        imds = ImdsServer(facts, role=RoleCredentials("node", "node-key", "node-secret", "node-token"))
        state = self.folder / instance
        state.mkdir()
        try:
            self.run("boot", **{ENDPOINT_VARIABLE: imds.start(), "SCALER_STATE_DIR": str(state)})
        finally:
            imds.stop()
        return state


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    aws, etcd = Ec2DoubleProcess(tmp_path_factory.mktemp("aws"), boot_after_s=0.0), RealEtcd(folder)
    try:
        etcd.set_up(1, Compose())
        aws.start()
        made = Desk(folder, aws, etcd)
        write_configuration(made)
        for command in commands_that_store("bootstrap.md"):
            store(made, command)
        made.run("bootstrap", "apply", "scaler.yaml")
        made.run("config", "push", "scaler.yaml")
        yield made
    finally:
        aws.stop()
        etcd.end()


def write_configuration(desk: Desk) -> None:
    """The example, with what is different on every network: etcd's address, the image, the subnets."""
    config = yaml.safe_load((DOCS / "examples" / "bootstrap.yaml").read_text())
    config["etcd"]["endpoints"] = desk.etcd.endpoints
    for pool in config["pools"]:
        pool["ami"] = DEMO_IMAGE_ID
        del pool["subnets"]
    (desk.folder / "scaler.yaml").write_text(yaml.safe_dump(config))


def commands_that_store(page: str) -> list[list[str]]:
    lines = re.findall(r"^aws ssm put-parameter .*$", (DOCS / page).read_text(), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def store(desk: Desk, command: list[str]) -> None:
    """What the AWS command line would do."""
    option = dict(zip(command[3::2], command[4::2], strict=True))
    name = option["--name"]
    file = option["--value"].removeprefix("file://")
    # Whoever types a secret ends it with a newline.
    value = f"{TYPED[name.rpartition('/')[2]]}\n" if file == "/dev/stdin" else (desk.folder / file).read_text()
    desk.client("ssm").put_parameter(Name=name, Value=value, Type=option["--type"], Tier="Standard")


def test_every_secret_that_the_example_names_is_stored_and_fits_a_standard_parameter(desk: Desk) -> None:
    stored = desk.client("ssm").get_parameters_by_path(Path="/scaler-sidecar/research", WithDecryption=True)
    named = re.findall(r"ssm:(\S+)", (DOCS / "examples" / "bootstrap.yaml").read_text())
    assert sorted(parameter["Name"] for parameter in stored["Parameters"]) == sorted(named)
    assert all(len(parameter["Value"].encode()) < STANDARD_PARAMETER_BYTES for parameter in stored["Parameters"])
    assert {parameter["Type"] for parameter in stored["Parameters"]} == {"SecureString"}
    # The page about etcd stores the same three in the same way, and `init` tells the same.
    assert all(command in commands_that_store("bootstrap.md") for command in commands_that_store("etcd.md"))
    (desk.folder / "asked").mkdir()
    told = desk.run(
        "init", "asked/scaler.yaml", "--yes", "--no-checks", "--cluster", "research", "--region", REGION,
        "--ami", DEMO_IMAGE_ID, "--etcd", "10.0.0.5:2379",
    )  # fmt: skip
    commands = [shlex.split(line) for line in re.findall(r"aws ssm put-parameter .*", told)]
    assert sorted(commands) == sorted(commands_that_store("bootstrap.md"))


def test_plan_finds_every_secret_and_the_stack_as_wanted(desk: Desk) -> None:
    planned = desk.run("bootstrap", "plan", "scaler.yaml")
    assert "ssm:" not in planned
    assert "nothing to change" in planned


def test_the_administrator_sees_the_cluster_with_the_same_file(desk: Desk) -> None:
    status = json.loads(desk.run("status", "--json", "--config", "scaler.yaml"))
    assert status["cluster"] == "research"
    assert status["config_revision"]
    assert desk.run("etcd", "status", "--config", "scaler.yaml").count("leader") == 1


@pytest.mark.parametrize("role", ["worker", "probe"])
def test_a_node_boots_with_certificates_that_its_role_may_read_in_ssm(desk: Desk, role: str) -> None:
    if role == "worker":
        desk.run("bootstrap", "first", "scaler.yaml", "--pool", "cpu", "--no-wait")
    else:
        desk.run("wake", "scaler.yaml", "--again", "--no-wait")
    instance, user_data = launched_as(desk, role)
    assert "ssm:/scaler-sidecar/research/etcd-key" in user_data
    assert "PRIVATE KEY" not in user_data

    state = desk.boot(instance, user_data)

    setup = read_setup(state)
    assert (setup.identity.role.value, setup.identity.cluster) == (role, "research")
    kept = sorted(state.glob("etcd/*"))
    key = (desk.etcd.certs / "clients/scaler/client.key").read_text().strip()
    assert len(kept) == 3
    assert [file.read_text() for file in kept].count(key) == 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in kept} == {0o600}
    assert stat.S_IMODE((state / "etcd").stat().st_mode) == 0o700
    others = [file.read_text() for file in state.iterdir() if file.is_file()]
    assert not any("PRIVATE KEY" in text for text in others)
    if role == "worker":
        assert '"the-secret-key"' in (state / "clearml.conf").read_text()

    assert later_process_reads_etcd(state) == "research"


def launched_as(desk: Desk, role: str) -> tuple[str, str]:
    """An instance of this role, and its user-data. The schedule may have launched a probe, too, which is the same."""
    ec2 = desk.client("ec2")
    listed = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    tag = {"Key": "scaler-sidecar:role", "Value": "probe"}
    instance = next(i["InstanceId"] for i in listed if (tag in i["Tags"]) == (role == "probe"))
    answer = ec2.describe_instance_attribute(InstanceId=instance, Attribute="userData")
    return instance, base64.b64decode(answer["UserData"]["Value"]).decode()


def later_process_reads_etcd(state: Path) -> str:
    """What the sidecar does after boot: without AWS, without boto3."""
    program = (
        "import sys; from pathlib import Path\n"
        "from scaler_plugin.coordination.keys import Keys\n"
        "from scaler_plugin.coordination.published_config import read_config\n"
        "from scaler_plugin.node.setup import read_setup\n"
        "setup = read_setup(Path(sys.argv[1]))\n"
        "published = read_config(setup.etcd.open(), Keys(setup.prefix, setup.identity.cluster))\n"
        "print(published.config.cluster)\n"
        "assert 'boto3' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, state],
        env={"PATH": os.environ["PATH"], "SCALER_STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
