"""The whole configuration: ``scaler.yaml`` in a user's hands, JSON under the key ``config`` in etcd, one schema for both.

Guarantees: a :class:`ScalerConfig` that exists is consistent (every rule and cross check below holds) and never changes.
Does not look at AWS, ClearML or etcd: that an AMI or a subnet exists is found out by whoever uses it.

Values are read by :mod:`scaler_plugin.config.load`, which turns each mistake into a sentence.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from scaler_plugin.config.duration import Duration
from scaler_plugin.config.pool_schema import INSTANCE_TYPE, PoolConfig
from scaler_plugin.config.rules import Choice, Count, ListOf, SecretReference, Text, Timespan, refused
from scaler_plugin.config.secret_ref import SecretRef
from scaler_plugin.config.section import Section
from scaler_plugin.core.policy import ZeroMode

TLS_FILE = Text(
    "an absolute path such as /etc/scaler/ca.pem, or where AWS keeps the text: ssm:/parameter/name or secretsmanager:name",
    r"/\S(?:.*\S)?|ssm:/[A-Za-z0-9_./-]{1,1010}|secretsmanager:[A-Za-z0-9/_+=.@:-]{1,2048}",
    4096,
)
#: A login in a URL would be a secret in clear: no "@", and the value stays out of errors.
URL = Text(
    "a URL without a login in it, such as https://api.clear.ml",
    r"https?://[^\s/@?#]+(?::[0-9]+)?(?:/[^\s@]*)?",
    secret=True,
)
ENDPOINT = Text(
    "host:port, such as 10.0.0.5:2379 (with https:// in front for TLS by the system's own authorities)",
    r"(?:https?://)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}",
)


class EtcdTls(Section):
    """Encryption to etcd. With `cert` and `key`, the client proves itself to etcd too."""

    ca: Annotated[str, TLS_FILE] = Field(
        description="Certificate authority that signed etcd's certificate, PEM.", examples=["/etc/scaler/ca.pem"]
    )
    cert: Annotated[str | None, TLS_FILE] = Field(
        None, description="Client certificate, PEM; needs `key`.", examples=["ssm:/scaler-sidecar/research/etcd-cert"]
    )
    key: Annotated[str | None, TLS_FILE] = Field(
        None,
        description="Client certificate's private key, PEM; needs `cert`.",
        examples=["ssm:/scaler-sidecar/research/etcd-key"],
    )

    @model_validator(mode="after")
    def _check(self) -> EtcdTls:
        if self.cert and not self.key:
            raise refused("given together with etcd.tls.cert", key="key")
        if self.key and not self.cert:
            raise refused("given together with etcd.tls.key", key="cert")
        return self


class EtcdConfig(Section):
    """Where etcd is. Nodes learn the endpoints from their user-data, the command line from `SCALER_ETCD` or `--etcd`."""

    endpoints: Annotated[tuple[str, ...], ListOf(ENDPOINT, "10.0.0.5:2379, 10.0.0.6:2379", empty_allowed=True)] = Field(
        (),
        description="Every member of the etcd cluster. Left out: the comma list in the variable `SCALER_ETCD`.",
        examples=[["10.0.0.5:2379"]],
    )
    tls: EtcdTls | None = Field(None, description="Encryption and client certificates; left out: plain text.")
    user: Annotated[str | None, Text("an etcd user name")] = Field(
        None, description="etcd user; needs `password`.", examples=["scaler"]
    )
    password: Annotated[SecretRef | None, SecretReference()] = Field(
        None, description="Where the etcd user's password is kept.", examples=["file:/etc/scaler/etcd-password"]
    )

    @model_validator(mode="after")
    def _check(self) -> EtcdConfig:
        if self.user and not self.password:
            raise refused("given together with etcd.user", key="password")
        if self.password and not self.user:
            raise refused("given together with etcd.password", key="user")
        return self


class ClearmlConfig(Section):
    """The ClearML server. Everything left out comes from the usual `clearml.conf` and `CLEARML_*` variables."""

    api_host: Annotated[str | None, URL] = Field(None, description="API server.", examples=["https://api.clear.ml"])
    web_host: Annotated[str | None, URL] = Field(None, description="Web server.", examples=["https://app.clear.ml"])
    files_host: Annotated[str | None, URL] = Field(
        None, description="File server.", examples=["https://files.clear.ml"]
    )
    access_key: Annotated[SecretRef | None, SecretReference()] = Field(
        None,
        description="Where the access key is kept; needs `secret_key`.",
        examples=["ssm:/scaler/clearml-access-key"],
    )
    secret_key: Annotated[SecretRef | None, SecretReference()] = Field(
        None,
        description="Where the secret key is kept; needs `access_key`.",
        examples=["ssm:/scaler/clearml-secret-key"],
    )

    @model_validator(mode="after")
    def _check(self) -> ClearmlConfig:
        if self.access_key and not self.secret_key:
            raise refused("given together with clearml.access_key", key="secret_key")
        if self.secret_key and not self.access_key:
            raise refused("given together with clearml.secret_key", key="access_key")
        return self


class AwsConfig(Section):
    """AWS. Credentials come from boto3's own chain, on an instance its role; there is no setting for them."""

    region: Annotated[str | None, Text("an AWS region, such as eu-central-1", r"[a-z]{2,}(?:-[a-z]+)+-[0-9]+")] = Field(
        None,
        description="Region of the instances. Left out: boto3's own chain, then on an instance its own.",
        examples=["eu-central-1"],
    )
    endpoint_url: Annotated[str | None, URL] = Field(
        None,
        description="Another EC2 endpoint, such as a VPC endpoint. Left out: boto3's own (also `AWS_ENDPOINT_URL_EC2`).",
        examples=["https://ec2.internal.example"],
    )
    stack: Annotated[
        str | None, Text("1 to 80 letters, digits and -, beginning with a letter", r"[A-Za-z][A-Za-z0-9-]{0,79}")
    ] = Field(
        None,
        description="The CloudFormation stack of `scaler-sidecar bootstrap`. With it, instances are launched by the stack's launch"
        " templates, which bring instance profile and security group; its policy allows nothing else. See"
        " [bootstrap](bootstrap.md).",
        examples=["scaler-sidecar-research"],
    )

    def launch_template(self, pool: str) -> str | None:
        """The name of the pool's launch template in the stack; ``None`` without a stack."""
        return f"{self.stack}-{pool}" if self.stack else None


def usual_zero_mode(has_stack: bool) -> ZeroMode:
    """The mode where none was chosen: a probe needs the schedule that a stack brings."""
    return ZeroMode.PROBE if has_stack else ZeroMode.STANDBY


class ZeroConfig(Section):
    """What is left running when there is nothing to do."""

    mode: Annotated[ZeroMode | None, Choice(ZeroMode)] = Field(
        None,
        description="`probe`: every worker goes, and a schedule launches a short-lived probe every few minutes that looks for"
        " tasks. `standby`: a sidecar without an agent (`run --standby`) on a machine that is up anyway leads; every worker"
        " may go. `keep_one`: the last worker stays. Left out: `probe` where `aws.stack` is set, for that stack has the"
        " schedule, else `standby`.",
        examples=["standby"],
    )
    probe_every: Annotated[Duration, Timespan("1m", "1d")] = Field(
        Duration(300_000),
        description="How often the schedule launches a probe, in whole minutes: the longest that a task waits for one. For mode"
        " `probe`; its costs are in [zero](zero.md).",
        examples=["5m"],
    )
    probe_instance_type: Annotated[str, INSTANCE_TYPE] = Field(
        "t3.micro",
        description="The probe's instance type: the cheapest with 1 GiB of memory that runs the image of the first CPU-only pool"
        " (without one, of the first pool).",
        examples=["t3.micro"],
    )

    @model_validator(mode="after")
    def _check(self) -> ZeroConfig:
        if self.probe_every.seconds % 60:
            raise refused("a whole number of minutes, such as 5m", key="probe_every")
        return self


class ScalerConfig(Section):
    """One cluster: where its parts are, and the pools it may launch."""

    cluster: Annotated[
        str, Text("1 to 40 of a-z, 0-9 and -, not beginning or ending with -", r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
    ] = Field(
        description="The cluster's name: part of worker ids, EC2 tags and etcd keys. Two clusters in one AWS account and region"
        " need different names.",
        examples=["research"],
    )
    prefix: Annotated[
        str, Text("letters, digits and . _ -, in parts separated by /", r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
    ] = Field("scaler-sidecar", description="First part of every etcd key.", examples=["scaler-sidecar"])
    max_instances: Annotated[int | None, Count(1, 100_000)] = Field(
        None, description="Most instances of the cluster at any time. Left out: the sum over the pools.", examples=[50]
    )
    poll_interval: Annotated[Duration, Timespan("100ms", "10m")] = Field(
        Duration(2000),
        description="How often the leader looks at the queues and every node at the configuration. Hosted ClearML plans meter API"
        " calls: a longer interval costs fewer, and makes tasks wait longer.",
        examples=["2s"],
    )
    leader_ttl: Annotated[Duration, Timespan("2s", "5m", whole_seconds=True)] = Field(
        Duration(10_000),
        description="How long after a leader's death another takes over, at most. etcd itself cannot do better than 2 s.",
        examples=["10s"],
    )
    zero: ZeroConfig = Field(ZeroConfig(), description="What is left running when there is nothing to do.")
    etcd: EtcdConfig = Field(EtcdConfig(), description="Where etcd is.")
    clearml: ClearmlConfig = Field(ClearmlConfig(), description="The ClearML server and its credentials.")
    aws: AwsConfig = Field(AwsConfig(), description="Region and endpoint.")
    pools: tuple[PoolConfig, ...] = Field(
        description="The pools, in order of preference: where several serve a queue, the first is filled first."
    )

    def pool(self, name: str | None) -> PoolConfig | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    @property
    def probe_pool(self) -> PoolConfig:
        """The pool whose image and place the probe shares: the first one without GPUs, whose image is the smallest."""
        return next((pool for pool in self.pools if pool.cpu_only), self.pools[0])

    @property
    def zero_mode(self) -> ZeroMode:
        """The zero mode in force; ``zero.mode`` is only what was said about it."""
        return self.zero.mode or usual_zero_mode(bool(self.aws.stack))

    @model_validator(mode="after")
    def _check(self) -> ScalerConfig:
        if not self.pools:
            raise refused("a list of at least one pool", key="pools")
        for index, pool in enumerate(self.pools):
            if any(other.name == pool.name for other in self.pools[:index]):
                raise refused("different from the pools before it", key=f"pools[{index}].name")
            for place, zone in enumerate(pool.zones):
                if self.aws.region and not zone.startswith(self.aws.region):
                    raise refused(f"a zone of aws.region, {self.aws.region}", key=f"pools[{index}].zones[{place}]")
        least = sum(pool.min_instances for pool in self.pools)
        if self.max_instances is not None and self.max_instances < least:
            raise refused(f"at least {least}, the sum of the pools' min_instances", key="max_instances")
        return self
