"""``scaler-sidecar init`` as a person meets it: on a terminal, without one, and against servers that answer."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import requests

from scaler_plugin.config.load import load_file
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID, Ec2DoubleProcess
from scaler_plugin.localcloud.etcd import EtcdProcess

from ..waiting import PATIENCE_S, STARTING_S

pytestmark = pytest.mark.real

ORIGINAL = Path(__file__).parents[1] / "unit" / "importing" / "files" / "aws_autoscaler.yaml"
COMMAND = [sys.executable, "-m", "scaler_plugin", "init"]
#: Nothing of the caller's own: no credentials, no region, no configuration files.
BARE = {
    "PATH": os.environ["PATH"],
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
    "TERM": "dumb",
}


def init(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**BARE, "HOME": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


LEAST = ("--yes", "--no-checks", "--region", "eu-central-1", "--ami", "ami-0a1b2c3d", "--etcd", "10.0.0.5:2379")


def test_without_a_terminal_options_and_defaults_are_enough(tmp_path: Path) -> None:
    done = init(tmp_path, *LEAST)
    assert done.returncode == 0, done.stderr
    assert load_file(tmp_path / "scaler.yaml").aws.region == "eu-central-1"
    assert (
        "aws ssm put-parameter --region eu-central-1 --type SecureString --name /scaler-sidecar/clearml/clearml-secret-key"
        in done.stdout
    )


def test_every_command_of_the_next_steps_is_a_line_of_its_own_and_one_that_a_shell_takes(tmp_path: Path) -> None:
    """On a terminal of 60 columns, too: nothing breaks a command."""
    done = init(tmp_path, *LEAST, "--zero", "standby", "my scaler.yaml", COLUMNS="60", FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    commands = [
        shlex.split(line)
        for line in done.stdout.partition("Secrets to store")[2].splitlines()
        if line.startswith(("  scaler-sidecar", "  aws"))
    ]
    assert [words[1:3] for words in commands if words[0] == "aws"] == [["ssm", "put-parameter"]] * 5
    assert [words[1:] for words in commands if words[0] == "scaler-sidecar"] == [
        ["bootstrap", "plan", "my scaler.yaml"],
        ["bootstrap", "apply", "my scaler.yaml"],
        ["config", "push", "my scaler.yaml"],
        ["run", "--standby", "--config", "my scaler.yaml"],
        ["status", "--config", "my scaler.yaml", "--watch"],
    ]


def test_a_file_that_exists_is_replaced_only_when_told(tmp_path: Path) -> None:
    file = tmp_path / "scaler.yaml"
    file.write_text("mine")
    refused = init(tmp_path, *LEAST)
    assert (refused.returncode, file.read_text()) == (2, "mine")
    assert "--force" in refused.stderr
    assert init(tmp_path, *LEAST, "--force").returncode == 0
    assert load_file(file).cluster == "clearml"


def test_without_a_terminal_and_without_yes_nothing_is_asked(tmp_path: Path) -> None:
    refused = init(tmp_path)
    assert refused.returncode == 2
    assert "no terminal to ask on" in refused.stderr


def test_the_originals_file_is_taken_over_and_no_secret_of_it_is_printed_or_written(tmp_path: Path) -> None:
    done = init(tmp_path, *LEAST, "--from", str(ORIGINAL), "--docker-image", "none")
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "scaler.yaml").read_text()
    assert [pool.name for pool in load_file(tmp_path / "scaler.yaml").pools] == ["aws4gpu", "aws-big", "cpu-only"]
    for text in (written, done.stdout, done.stderr):
        assert "CANARY" not in text
    assert "hyper_params.shiny_new_setting: this key is not known" in done.stdout


def test_a_file_that_is_no_original_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("password: CANARY\n")
    refused = init(tmp_path, *LEAST, "--from", "x.yaml")
    assert refused.returncode == 2
    assert "is no configuration of ClearML's AWS autoscaler" in refused.stderr
    assert "CANARY" not in refused.stdout + refused.stderr
    assert not (tmp_path / "scaler.yaml").exists()


def test_what_cannot_be_reached_is_said_and_does_not_stop_it(tmp_path: Path) -> None:
    done = init(
        tmp_path, "--yes", "--region", "eu-central-1", "--ami", "ami-0a1b2c3d", "--etcd", "127.0.0.1:1",
        "--clearml-api", "http://127.0.0.1:1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Not checked: region, types, market, ami, subnets, etcd, clearml-api, queues." in done.stdout
    assert "no AWS credentials" in done.stdout


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """EC2, ClearML and etcd that answer."""
    folder = tmp_path_factory.mktemp("cloud")
    ec2, clearml = Ec2DoubleProcess(folder / "ec2"), ClearmlApiProcess(folder / "clearml")
    with EtcdProcess(folder / "etcd") as etcd:
        try:
            yield {
                "AWS_ENDPOINT_URL_EC2": ec2.start(),
                "AWS_ACCESS_KEY_ID": "local",
                "AWS_SECRET_ACCESS_KEY": "local",
                "AWS_DEFAULT_REGION": "us-east-1",
                "CLEARML_API_HOST": clearml.start(),
                "CLEARML_API_ACCESS_KEY": clearml.access_key,
                "CLEARML_API_SECRET_KEY": clearml.secret_key,
                "SCALER_ETCD": etcd.endpoint.removeprefix("http://"),
            }
        finally:
            ec2.stop()
            clearml.stop()


def test_servers_that_answer_confirm_each_answer_and_give_the_defaults(tmp_path: Path, cloud: dict[str, str]) -> None:
    done = init(tmp_path, "--yes", "--ami", DEMO_IMAGE_ID, **cloud)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Not checked" not in done.stdout
    for said in (
        "✓ region: us-east-1 has",
        "✓ types: g4dn.xlarge has 4 vCPUs and 1 GPU",
        f"✓ ami: {DEMO_IMAGE_ID} is scaler-sidecar-demo",
        "✓ subnets: the default subnets of",
        "✓ etcd:",
        "✓ market: g4dn.xlarge, g5.xlarge can be had on demand",
        "takes this machine's keys",
        "✓ queues: default exists",
    ):
        assert said in done.stdout
    config = load_file(tmp_path / "scaler.yaml")
    assert config.etcd.endpoints == (cloud["SCALER_ETCD"],)
    assert config.clearml.api_host == cloud["CLEARML_API_HOST"]
    assert cloud["CLEARML_API_SECRET_KEY"] not in (tmp_path / "scaler.yaml").read_text() + done.stdout


def test_an_image_by_name_is_confirmed_with_its_id_and_stays_a_name(tmp_path: Path, cloud: dict[str, str]) -> None:
    done = init(tmp_path, "--yes", "--ami", "name:scaler-sidecar-*", **cloud)
    assert f"✓ ami: name:scaler-sidecar-* is {DEMO_IMAGE_ID}, scaler-sidecar-demo" in done.stdout, done.stderr
    assert load_file(tmp_path / "scaler.yaml").pools[0].ami == "name:scaler-sidecar-*"
    refused = init(tmp_path, "--yes", "--ami", "name:unheard-of", "--force", **cloud)
    assert refused.returncode == 2
    assert "this account has no available image of such a name" in refused.stderr


def test_an_image_without_the_driver_of_the_types_gpus_is_refused(tmp_path: Path, cloud: dict[str, str]) -> None:
    ec2 = boto3.client(
        "ec2", endpoint_url=cloud["AWS_ENDPOINT_URL_EC2"], region_name=cloud["AWS_DEFAULT_REGION"],
        aws_access_key_id="local", aws_secret_access_key="local",
    )  # fmt: skip
    variant = [{"Key": "scaler-sidecar:variant", "Value": "cpu"}]
    ec2.create_tags(Resources=[DEMO_IMAGE_ID], Tags=variant)
    try:
        refused = init(tmp_path, "--yes", "--ami", DEMO_IMAGE_ID, "--types", "g4dn.xlarge", **cloud)
    finally:
        ec2.delete_tags(Resources=[DEMO_IMAGE_ID], Tags=variant)
    assert refused.returncode == 2
    assert "g4dn.xlarge has GPUs, and the image" in refused.stderr


def test_wrong_answers_are_found_and_nothing_is_written(tmp_path: Path, cloud: dict[str, str]) -> None:
    refused = init(
        tmp_path, "--yes", "--ami", "ami-0a1b2c3d", "--types", "g99.huge", "--subnets", "subnet-0a1b2c3d", **cloud
    )
    assert refused.returncode == 2
    for said in ("ami-0a1b2c3d does not exist", "g99.huge does not exist", "subnet-0a1b2c3d does not exist"):
        assert said in refused.stderr
    assert not (tmp_path / "scaler.yaml").exists()


def test_a_type_that_is_not_sold_as_spot_or_does_not_run_the_image_is_found(
    tmp_path: Path, cloud: dict[str, str]
) -> None:
    types = ("--types", "t3.large, mac1.metal")
    refused = init(tmp_path, "--yes", "--ami", DEMO_IMAGE_ID, *types, "--market", "spot", **cloud)
    assert refused.returncode == 2
    assert "--market spot: mac1.metal is not sold as spot" in refused.stderr
    refused = init(tmp_path, "--yes", "--ami", DEMO_IMAGE_ID, "--types", "t4g.large", **cloud)
    assert f"t4g.large is arm64, and the image {DEMO_IMAGE_ID} is x86_64" in refused.stderr
    assert not (tmp_path / "scaler.yaml").exists()


def test_queues_that_clearml_has_are_told_from_those_to_come(tmp_path: Path, cloud: dict[str, str]) -> None:
    requests.post(
        f"{cloud['CLEARML_API_HOST']}/queues.create",
        json={"name": "there-already"},
        auth=(cloud["CLEARML_API_ACCESS_KEY"], cloud["CLEARML_API_SECRET_KEY"]),
        timeout=PATIENCE_S,
    ).raise_for_status()
    done = init(tmp_path, "--yes", "--ami", DEMO_IMAGE_ID, "--queues", "there-already, yet-to-come", **cloud)
    assert "✓ queues: there-already exists; yet-to-come does not exist and will be created." in done.stdout


class Terminal:
    """A person at a terminal."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        self._fd = ours
        self.process = subprocess.Popen(
            COMMAND,
            cwd=folder,
            env={**BARE, "HOME": str(folder), "COLUMNS": "160", **environment},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def reads(self, text: str, within_s: float = STARTING_S) -> str:
        """Wait until the text stands on the screen, and return what came since the last time."""
        deadline, new = time.monotonic() + within_s, ""
        while text not in new:
            assert time.monotonic() < deadline, f"{text!r} did not appear; the screen shows {self.seen + new!r}"
            ready, _, _ = select.select([self._fd], [], [], 1.0)
            if ready:
                try:
                    new += os.read(self._fd, 4096).decode()
                except OSError:  # the other side is closed
                    assert text in new, f"{text!r} did not appear; the screen shows {self.seen + new!r}"
        self.seen += new
        return new

    def types(self, text: str) -> None:
        os.write(self._fd, f"{text}\n".encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


def test_a_person_is_asked_little_and_a_mistake_is_asked_again(tmp_path: Path, cloud: dict[str, str]) -> None:
    terminal = Terminal(tmp_path, cloud)
    try:
        terminal.reads("A name for the cluster [clearml]:")
        terminal.types("My Cluster")
        assert "It must be 1 to 40 of a-z" in terminal.reads("A name for the cluster [clearml]:")
        terminal.types("research")
        terminal.reads("AWS region [us-east-1]:")
        terminal.types("")
        terminal.reads("ClearML queues, the most urgent first [default]:")
        terminal.types("urgent, default")
        terminal.reads("instance types")
        terminal.types("t3.large")
        terminal.reads("spot or on-demand [on-demand]:")
        terminal.types("spot")
        terminal.reads("The image that packer.json baked")
        terminal.types("ami-0a1b2c3d")
        assert "That is not right: ami-0a1b2c3d does not exist" in terminal.reads("The image that packer.json baked")
        terminal.types(DEMO_IMAGE_ID)
        for question in (
            "At most so many",
            "Subnets",
            "Docker image",
            "Git user",
            "etcd's endpoints",
            "prove themselves",
        ):
            terminal.reads(question)
            terminal.types("")
        for question in ("ClearML's API server", "When nothing is to do", "Where secrets are kept"):
            terminal.reads(question)
            terminal.types("")
        terminal.reads("config push scaler.yaml")
        assert terminal.process.wait(PATIENCE_S) == 0
    finally:
        terminal.close()
    (pool,) = load_file(tmp_path / "scaler.yaml").pools
    assert (pool.queues, pool.market.value, pool.ami) == (("urgent", "default"), "spot", DEMO_IMAGE_ID)
    asked = re.findall(r"password|secret key|token", terminal.seen.partition("Wrote")[0], re.IGNORECASE)
    assert asked == ["password"]  # as a way to log in to etcd, by name


def test_an_interrupted_wizard_leaves_nothing(tmp_path: Path, cloud: dict[str, str]) -> None:
    terminal = Terminal(tmp_path, cloud)
    try:
        terminal.reads("A name for the cluster")
        terminal.types("\x04")  # the end of the input
        assert terminal.process.wait(PATIENCE_S) != 0
    finally:
        terminal.close()
    assert "Traceback" not in terminal.seen
    assert list(tmp_path.glob("*.yaml*")) == []
