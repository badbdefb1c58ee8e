"""A pool's part of the configuration: what its instances are, how many there may be, and what runs on them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any

from pydantic import Field, model_validator

from scaler_plugin.config.check_schema import CheckConfig
from scaler_plugin.config.duration import Duration
from scaler_plugin.config.rules import (
    Choice,
    Count,
    FreeText,
    ListOf,
    SecretReference,
    Switch,
    Tags,
    Text,
    TextOrNone,
    Timespan,
    refused,
)
from scaler_plugin.config.secret_ref import SecretRef
from scaler_plugin.config.section import Section
from scaler_plugin.core.model import Market

#: ClearML refuses queue names of fewer characters (error 800 of its API).
QUEUE = Text("a queue name of 3 characters or more", r"\S.+\S", 255)
INSTANCE_TYPE = Text("an EC2 instance type, such as g5.xlarge", r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
SUBNET = Text("a subnet id, such as subnet-0a1b2c3d", r"subnet-[a-z0-9]+")
ZONE = Text("an availability zone, such as eu-central-1a", r"[a-z]{2,}(?:-[a-z]+)+-[0-9]+[a-z0-9-]*[a-z]")
SECURITY_GROUP = Text("a security group id, such as sg-0a1b2c3d", r"sg-[a-z0-9]+")
#: EC2's own way of writing that an id is kept in a parameter of Systems Manager; and ours for what an image is called.
IMAGE_BY_PARAMETER = "resolve:ssm:"
IMAGE_BY_NAME = "name:"
_IMAGE_ID = r"ami-[a-z0-9]+"
#: What EC2 allows in an image's name besides spaces, and its wildcards.
_OF_IMAGE_NAME = r"[A-Za-z0-9()\[\]./'@_*?-]+"
AMI = Text(
    "an AMI id, such as ami-0a1b2c3d4e5f67890, or resolve:ssm: with a parameter's name, or name: with the name of an image of your"
    " own, in which * and ? stand for anything (name:111122223333: for another account's)",
    rf"{_IMAGE_ID}|{IMAGE_BY_PARAMETER}[A-Za-z0-9_./:-]+|{IMAGE_BY_NAME}(?:[0-9]{{12}}:)?{_OF_IMAGE_NAME}(?: +{_OF_IMAGE_NAME})*",
    1024,
)
#: User-data has 16 kB and holds no scripts: these travel through etcd, whose values should stay well under 1.5 MB.
LONGEST_SCRIPT = 100_000
#: A first boot fetches some 300 MB of packages and unpacks them on a machine that may be small: minutes, and more on a slow mirror.
FIRST_BOOT_STARTUP = Duration(1_200_000)
LEAST_FIRST_BOOT_STARTUP = Duration(300_000)


def is_image_id(ami: str) -> bool:
    """Whether this is an image's id, and not something to look one up by."""
    return re.fullmatch(_IMAGE_ID, ami) is not None


class VolumeConfig(Section):
    """The root EBS volume. Left out, the AMI's own."""

    size_gb: Annotated[int, Count(1, 65_536)] = Field(
        description="Size in GiB; not below the AMI's own.", examples=[100]
    )
    type: Annotated[str, Text("one of gp3, gp2, io1, io2, st1, sc1, standard", r"gp2|gp3|io1|io2|st1|sc1|standard")] = (
        Field("gp3", description="EBS volume type.", examples=["gp3"])
    )
    device_name: Annotated[str, Text("a device name, such as /dev/sda1", r"/dev/[a-z0-9/]+")] = Field(
        "/dev/sda1", description="The AMI's root device: Ubuntu `/dev/sda1`, Debian and Amazon Linux `/dev/xvda`."
    )
    iops: Annotated[int | None, Count(100, 256_000)] = Field(
        None, description="Operations per second; for `gp3`, and needed for `io1` and `io2`.", examples=[6000]
    )
    throughput: Annotated[int | None, Count(125, 2000)] = Field(
        None, description="MiB per second; for `gp3` only.", examples=[250]
    )
    encrypted: Annotated[bool, Switch()] = Field(True, description="Whether EBS encrypts the volume.", examples=[True])

    @model_validator(mode="after")
    def _check(self) -> VolumeConfig:
        if self.iops is not None and self.type not in ("gp3", "io1", "io2"):
            raise refused(f"left out: a {self.type} volume takes none (gp3, io1 and io2 do)", key="iops")
        if self.iops is None and self.type in ("io1", "io2"):
            raise refused(f"given: a {self.type} volume needs a number of operations per second", key="iops")
        if self.throughput is not None and self.type != "gp3":
            raise refused(f"left out: a {self.type} volume takes none (only gp3 does)", key="throughput")
        return self


class GitConfig(Section):
    """The login with which agents clone private repositories over HTTPS."""

    user: Annotated[str, Text("a git user name")] = Field(description="Git user.", examples=["ci-bot"])
    password: Annotated[SecretRef, SecretReference()] = Field(
        description="Where the password or access token is kept.", examples=["secretsmanager:scaler/git-token"]
    )


class ImageVariant(Enum):
    """What is installed at a first boot."""

    CPU = "cpu"
    GPU = "gpu"


class FirstBootConfig(Section):
    """For a pool whose AMI is a stock image of Ubuntu 24.04, 22.04 or Debian 12: what its instances install at their first boot.
    `make ami-bundle` makes the bundle and prints its hash. See [bootstrap](bootstrap.md#stock-images)."""

    bundle_url: Annotated[
        str,
        # No query: a signed address is a secret for a while and then none that works, and user-data lasts.
        Text(
            "an https:// address without login and query, such as https://files.example.com/ami-bundle.tar.gz",
            r"https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/[A-Za-z0-9._~%/+,=@:-]+",
            1024,
            secret=True,
        ),
    ] = Field(
        description="Where instances fetch the bundle: they must reach it, and may without a login.",
        examples=["https://files.example.com/ami-bundle.tar.gz"],
    )
    bundle_sha256: Annotated[
        str, Text("64 hexadecimal digits, as `make ami-bundle` prints them", r"[0-9a-fA-F]{64}")
    ] = Field(
        description="The bundle's SHA-256. Nothing of another file is run.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )
    variant: Annotated[ImageVariant, Choice(ImageVariant)] = Field(
        ImageVariant.CPU,
        description="`gpu`: for an image that has the NVIDIA driver, and for containers docker with NVIDIA's toolkit too.",
        examples=["gpu"],
    )


class PoolConfig(Section):
    """Interchangeable workers: which queues they serve and which instances they are."""

    name: Annotated[
        str, Text("1 to 40 of a-z, 0-9 and -, not beginning or ending with -", r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
    ] = Field(description="The pool's name: part of worker ids and EC2 tags.", examples=["gpu"])
    queues: Annotated[tuple[str, ...], ListOf(QUEUE, "urgent, default")] = Field(
        description="ClearML queues the agents pull from, most urgent first. One that does not exist is created.",
        examples=[["urgent", "default"]],
    )
    instance_types: Annotated[tuple[str, ...], ListOf(INSTANCE_TYPE, "g5.xlarge, g4dn.xlarge")] = Field(
        description="EC2 instance types, the preferred first; the next is tried when EC2 has no capacity.",
        examples=[["g5.xlarge", "g4dn.xlarge"]],
    )
    ami: Annotated[str, AMI] = Field(
        description="The AMI with agent and sidecar; a stock image with `first_boot`. Anything but an id is looked up by"
        " `bootstrap apply`, or without a stack by `config push`, and published as an id. See"
        " [bootstrap](bootstrap.md#images-by-name).",
        examples=["ami-0a1b2c3d4e5f67890"],
    )
    first_boot: FirstBootConfig | None = Field(
        None, description="Makes nodes of a stock image. Left out: the AMI is one that Packer baked."
    )
    max_instances: Annotated[int, Count(1, 100_000)] = Field(
        description="Most instances of the pool at any time, however long the queues.", examples=[10]
    )
    min_instances: Annotated[int, Count(0, 100_000)] = Field(
        0, description="Instances that stay up even when idle.", examples=[1]
    )
    market: Annotated[Market, Choice(Market)] = Field(
        Market.ON_DEMAND, description="`on-demand` or `spot`: how EC2 sells the instances.", examples=["spot"]
    )
    subnets: Annotated[tuple[str, ...], ListOf(SUBNET, "subnet-0a1b2c3d", empty_allowed=True)] = Field(
        (),
        description="Subnets, the preferred first; each is tried. Not together with `zones`. Neither: EC2's default subnet.",
        examples=[["subnet-0a1b2c3d", "subnet-1b2c3d4e"]],
    )
    zones: Annotated[tuple[str, ...], ListOf(ZONE, "eu-central-1a", empty_allowed=True)] = Field(
        (),
        description="Availability zones with a default subnet, the preferred first. Not together with `subnets`.",
        examples=[["eu-central-1a", "eu-central-1b"]],
    )
    security_groups: Annotated[tuple[str, ...], ListOf(SECURITY_GROUP, "sg-0a1b2c3d", empty_allowed=True)] = Field(
        (), description="Security group ids. Left out: the VPC's default group.", examples=[["sg-0a1b2c3d"]]
    )
    key_name: Annotated[str | None, Text("the name of an EC2 key pair")] = Field(
        None, description="EC2 key pair for SSH; not needed for anything here.", examples=["ops"]
    )
    instance_profile: Annotated[
        str | None,
        Text("an instance profile's name or ARN", r"[\w+=,.@-]+|arn:aws[a-z-]*:iam::[0-9]{12}:instance-profile/\S+"),
    ] = Field(
        None,
        description="Name or ARN of the instance profile. Its role must allow what a leader does.",
        examples=["scaler-node"],
    )
    volume: VolumeConfig | None = Field(None, description="The root volume. Left out: the AMI's own.")
    tags: Annotated[Mapping[str, str], Tags()] = Field(
        {}, description="Your own tags on instances and volumes, besides the cluster's.", examples=[{"team": "vision"}]
    )
    idle_timeout: Annotated[Duration | None, Timespan("1s", "30d", never=True)] = Field(
        Duration(600_000),
        description="A node ends itself when all its slots have been idle for so long and its queues are empty.",
        examples=["10m"],
    )
    startup_timeout: Annotated[Duration, Timespan("1s", "6h")] = Field(
        Duration(600_000),
        description="An instance that has not registered so long after its launch is terminated; its console output is kept."
        " With `first_boot` at least 5m, and 20m when left out.",
        examples=["10m"],
    )
    max_lifetime: Annotated[Duration | None, Timespan("1m", "365d", never=True)] = Field(
        None,
        description="Age from which a node takes no further task, finishes the one it has, and is replaced; at most a tenth of the"
        " pool (at least one node) at a time. `never`: nodes have no age.",
        examples=["7d"],
    )
    sessions_keep_alive: Annotated[bool, Switch()] = Field(
        False,
        description="`true`: somebody logged in by SSH or Session Manager counts as activity, and the node stays.",
        examples=[True],
    )
    on_interruption: Annotated[str | None, FreeText("a shell script", LONGEST_SCRIPT)] = Field(
        None,
        description="Shell script that root runs for each running task when EC2 announces that it takes the instance, so that the"
        " task can save its state. See [interruptions](interruptions.md). Stored in etcd as it is: no secrets in it.",
        examples=["docker kill --signal USR1 $(docker ps -q)\n"],
    )
    on_interruption_timeout: Annotated[Duration, Timespan("1s", "4m")] = Field(
        Duration(60_000),
        description="How long that script may take; less when EC2 leaves less time. Then it is killed and the task goes back to its"
        " queue all the same.",
        examples=["60s"],
    )
    slots_per_node: Annotated[int, Count(1, 64)] = Field(
        1, description="Agents on one instance; its GPUs are divided among them.", examples=[1]
    )
    docker_image: Annotated[str | None, TextOrNone("a docker image", r"[a-z0-9][A-Za-z0-9._:/@-]*", 512)] = Field(
        None,
        description="Image in which tasks run unless they name their own; `none`: tasks run in virtual environments.",
        examples=["nvidia/cuda:12.4.1-runtime-ubuntu22.04"],
    )
    cpu_only: Annotated[bool, Switch()] = Field(
        False, description="`true`: agents use no GPU, even where there is one.", examples=[True]
    )
    init_script: Annotated[str | None, FreeText("a shell script", LONGEST_SCRIPT)] = Field(
        None,
        description="Shell script that root runs once per boot, before the agent starts. It is stored in etcd as it is:"
        " no secrets in it.",
        examples=["mkdir -p /data\n"],
    )
    extra_clearml_conf: Annotated[str | None, FreeText("a piece of clearml.conf", LONGEST_SCRIPT)] = Field(
        None,
        description="Lines for the agents' `clearml.conf` (HOCON), after everything else. Stored in etcd as it is:"
        " no secrets in it.",
        examples=["agent.package_manager.type: uv\n"],
    )
    git: GitConfig | None = Field(None, description="Login for private repositories.")
    min_free_disk_gb: Annotated[int, Count(0, 65_536)] = Field(
        2,
        description="A machine with less free disk space, in GiB, takes no further task and is replaced. `0`: never for that.",
        examples=[20],
    )
    freeze_fallback: Annotated[bool, Switch()] = Field(
        False,
        description="`true`: agents run without the plugin, as they come from PyPI, and are frozen (SIGSTOP) and looked through"
        " before their node ends. For versions that the plugin refuses; its limits are in [freeze](freeze.md).",
        examples=[True],
    )
    checks: tuple[CheckConfig, ...] = Field((), description="Health checks of your own. See [health](health.md).")

    @model_validator(mode="before")
    @classmethod
    def _allow_a_first_boot_its_time(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("first_boot") is not None and "startup_timeout" not in data:
            return {**data, "startup_timeout": str(FIRST_BOOT_STARTUP)}
        return data

    @model_validator(mode="after")
    def _check(self) -> PoolConfig:
        if self.first_boot and self.startup_timeout < LEAST_FIRST_BOOT_STARTUP:
            least = LEAST_FIRST_BOOT_STARTUP
            raise refused(
                f"at least {least} in a pool with first_boot: its instances install everything", key="startup_timeout"
            )
        if self.min_instances > self.max_instances:
            raise refused(f"at most max_instances, {self.max_instances}", key="min_instances")
        if self.subnets and self.zones:
            raise refused("left out when subnets are given: a subnet lies in one zone already", key="zones")
        return self
