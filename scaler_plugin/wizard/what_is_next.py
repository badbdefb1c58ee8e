"""What to do after the file is written, until a node is up: each step a command to copy as it is, or a sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scaler_plugin.bootstrapping.stored_secrets import CERTIFICATES, FILES
from scaler_plugin.config.secret_ref import SecretSource
from scaler_plugin.core.policy import ZeroMode
from scaler_plugin.wizard.first_config import ETCD_USER, EtcdLogin, Surroundings
from scaler_plugin.wizard.secret_places import ENVIRONMENT, FOLDER, UNITS


@dataclass(frozen=True)
class Step:
    """``command`` ``None``: ``text`` says what to do, and there is no one command for it."""

    text: str
    command: str | None = None


def etcd_certificates(around: Surroundings) -> str | None:
    """The command that makes etcd's certificates; ``None`` where nodes use none."""
    if around.etcd_login is not EtcdLogin.CERTIFICATE:
        return None
    hosts = dict.fromkeys(endpoint.rpartition("://")[2].rpartition(":")[0].strip("[]") for endpoint in around.etcd)
    members = " ".join(f"--member etcd-{number}={host}" for number, host in enumerate(hosts, start=1))
    return f"scaler-sidecar etcd certs ./{CERTIFICATES} {members}"


def secrets_to_store(config: Mapping[str, Any], around: Surroundings) -> list[Step]:
    """What must be put where before a node can start."""
    places, region = around.places, str(config["aws"]["region"])

    def store(what: str, name: str, file: str = "/dev/stdin") -> Step:
        how = places.how_to_store(name, region, file)
        return Step(what, how) if places.in_aws else Step(f"{what}: {how}")

    steps = [store("ClearML's access key", "clearml-access-key"), store("ClearML's secret key", "clearml-secret-key")]
    if around.etcd_login is EtcdLogin.PASSWORD:
        steps.append(store("etcd's password", "etcd-password"))
    elif around.etcd_login is EtcdLogin.CERTIFICATE and places.in_aws:
        steps += [
            store(f"etcd's {file.rpartition('/')[2]}, made by `etcd certs`", f"etcd-{place.rpartition('.')[2]}", file)
            for place, file in FILES.items()
        ]
    elif around.etcd_login is EtcdLogin.CERTIFICATE:
        steps.append(
            Step(f"etcd's certificates: copy clients/scaler of `etcd certs` to {FOLDER} of every node's image")
        )
    if any("git" in pool for pool in config["pools"]):
        steps.append(store("git's password or token", "git-password"))
    if places.source is SecretSource.ENV:
        drop_ins = " and ".join(f"/etc/systemd/system/{unit}.d/secrets.conf" for unit in UNITS)
        steps.append(
            Step(f"for both units to see them: the lines [Service] and EnvironmentFile={ENVIRONMENT} in {drop_ins}")
        )
    return steps


def login_from_here(around: Surroundings) -> Step | None:
    """How this machine reaches etcd where the file names what only nodes have; ``None`` where it goes by the file."""
    if around.places.in_aws or around.etcd_login is EtcdLogin.NOTHING:
        return None
    if around.etcd_login is EtcdLogin.CERTIFICATE:
        settings = " ".join(f"SCALER_ETCD_{place.rpartition('.')[2].upper()}={file}" for place, file in FILES.items())
        return Step("here, where etcd's certificates lie elsewhere than on nodes", f"export {settings}")
    if around.places.source is SecretSource.ENV:
        return Step(f"here, too, set {around.places.name('etcd-password')} in the environment")
    return Step(
        f"here, unless etcd's password is in {around.places.name('etcd-password')}, too: set SCALER_ETCD_USER to "
        f"{ETCD_USER} and SCALER_ETCD_PASSWORD_FILE to a file that holds it"
    )


def next_steps(file: str, around: Surroundings) -> list[Step]:
    """From a written configuration to a node that is up."""
    return list(_next_steps(file, around))


def _next_steps(file: str, around: Surroundings) -> Iterator[Step]:
    if around.stack:
        yield Step("what it would set up in your account", f"scaler-sidecar bootstrap plan {file}")
        yield Step("set it up", f"scaler-sidecar bootstrap apply {file}")
    login = login_from_here(around)
    if login is not None:
        yield login
    yield Step("publish the configuration; nodes read it from etcd", f"scaler-sidecar config push {file}")
    if not around.stack or around.zero == ZeroMode.STANDBY.value:
        yield Step(
            "the standby, on a machine that is always up: it leads (docs/operations.md)",
            f"scaler-sidecar run --standby --config {file}",
        )
    else:
        yield Step("the first instance, followed until it is up; it leads", f"scaler-sidecar bootstrap first {file}")
    if around.stack and around.zero == ZeroMode.PROBE.value:
        yield Step("or, instead of the first instance, only a probe: it looks for tasks", f"scaler-sidecar wake {file}")
    yield Step("watch it", f"scaler-sidecar status --config {file} --watch")
