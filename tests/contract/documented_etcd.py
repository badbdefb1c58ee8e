"""A real etcd set up as docs/etcd.md has it done: ``etcd certs``, one of the two service files, ``auth.sh``.

The service file says how the program starts: its command, settings, places and limits are read from there. What differs from a
machine of its own is where those places are (folders of the test) and which file the program is.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from scaler_plugin.coordination.etcd_store import EtcdStore, open_store
from scaler_plugin.errors import StoreRefused, StoreUnavailable
from scaler_plugin.localcloud.etcd import etcd_binary

from ..waiting import STARTING_S

SERVICE_FILES = Path(__file__).parents[2] / "bootstrap" / "etcd"
PREFIX = "/scaler-sidecar/"
#: On loopback members connect to each other from here; etcd wants that address in their certificates, too.
COMES_FROM = "127.0.0.1"


def scaler_sidecar(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SCALER_")}
    return subprocess.run(
        [sys.executable, "-m", "scaler_plugin", *arguments],
        env={**inherited, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class Start:
    """How a service file starts the program. ``places`` is where the paths that it knows are here."""

    command: list[str]
    settings: dict[str, str]
    places: dict[str, Path]
    capabilities: bool = True

    def popen(self, log: Path) -> subprocess.Popen[bytes]:
        program, *arguments = self.command
        assert Path(program).name == "etcd"
        command = [str(etcd_binary()), *(self._here(argument) for argument in arguments)]
        if not self.capabilities and os.geteuid() == 0:
            command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *command]
        settings = {name: self._here(value) for name, value in self.settings.items()}
        with log.open("ab") as output:
            return subprocess.Popen(command, env={"PATH": os.environ["PATH"], **settings}, stdout=output, stderr=output)

    def _here(self, value: str) -> str:
        """The value with its path as it is here. A path that the service file gives the program no access to is a mistake."""
        if not value.startswith("/"):
            return value
        inside = [place for place in self.places if value == place or value.startswith(f"{place}/")]
        assert inside, f"the settings name {value}, and the service file has {sorted(self.places)}"
        return str(self.places[inside[0]]) + value.removeprefix(inside[0])


class ServiceFile(Protocol):
    """One of the two ways to run a member."""

    def install(self, made: Path, machine: Path) -> None:
        """Put what ``etcd certs`` made for the member where the service expects it; again after a renewal."""

    def start(self, machine: Path) -> Start: ...

    def etc(self, machine: Path) -> Path:
        """The installed folder."""

    def data(self, machine: Path) -> Path: ...


class SystemdUnit:
    """``etcd.service`` on a machine whose root is the folder ``machine``."""

    def __init__(self) -> None:
        self.settings = unit_settings(SERVICE_FILES / "etcd.service")

    def install(self, made: Path, machine: Path) -> None:
        shutil.copytree(made, self.etc(machine), dirs_exist_ok=True)

    def etc(self, machine: Path) -> Path:
        return machine / self.settings["EnvironmentFile"].lstrip("/").rpartition("/")[0]

    def start(self, machine: Path) -> Start:
        self.data(machine).mkdir(mode=int(self.settings["StateDirectoryMode"], 8), parents=True, exist_ok=True)
        return Start(
            self.settings["ExecStart"].split(),
            env_file(machine / self.settings["EnvironmentFile"].lstrip("/")),
            {f"/{place.relative_to(machine)}": place for place in (self.etc(machine), self.data(machine))},
        )

    def data(self, machine: Path) -> Path:
        return machine / "var/lib" / self.settings["StateDirectory"]


class Compose:
    """``compose.yaml`` in the project folder ``machine``, as docker would read it."""

    def __init__(self) -> None:
        self.service: dict[str, Any] = yaml.safe_load((SERVICE_FILES / "compose.yaml").read_text())["services"]["etcd"]

    def install(self, made: Path, machine: Path) -> None:
        shutil.copytree(made, self.etc(machine), dirs_exist_ok=True)

    def etc(self, machine: Path) -> Path:
        return machine / "member"

    def data(self, machine: Path) -> Path:
        return machine / "volumes" / "data"

    def start(self, machine: Path) -> Start:
        # What belongs to root can be read only by root where there are no capabilities.
        assert (self.service["user"], self.service["cap_drop"]) == ("0:0", ["ALL"])
        places = {}
        for source, target, *_mode in (volume.split(":") for volume in self.service["volumes"]):
            # What is no path is a volume of the project.
            places[target] = machine / (source if source.startswith("./") else f"volumes/{source}")
            places[target].mkdir(parents=True, exist_ok=True)
        return Start(
            list(self.service["command"]),
            env_file(machine / self.service["env_file"]),
            places,
            capabilities=False,
        )


def unit_settings(file: Path) -> dict[str, str]:
    """A unit's settings by name; of those that stand more than once, the last."""
    lines = (line.strip() for line in file.read_text().splitlines())
    return {name: value for line in lines if line[:1] not in ("", "#", "[") for name, _, value in [line.partition("=")]}


def env_file(file: Path) -> dict[str, str]:
    """The file as both systemd and docker read it: without quotes and spaces, about which they do not agree."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert not any(character in line for line in lines for character in "\"'\\$ "), lines
    return dict(line.split("=", 1) for line in lines)


@dataclass
class RealMember:
    """An etcd process that has nothing but the settings and files which `etcd certs` made for it."""

    name: str
    address: str
    made: Path
    machine: Path
    service: ServiceFile
    process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return self.service.etc(self.machine)

    @property
    def data(self) -> Path:
        return self.service.data(self.machine)

    def install(self) -> None:
        self.service.install(self.made, self.machine)

    def start(self) -> None:
        self.process = self.service.start(self.machine).popen(self.machine / "etcd.log")

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass
class RealEtcd:
    """The whole: certificates, members, authentication."""

    folder: Path
    members: list[RealMember] = field(default_factory=list)

    @property
    def certs(self) -> Path:
        return self.folder / "etcd-certs"

    @property
    def endpoints(self) -> list[str]:
        return [f"{member.address}:2379" for member in self.members]

    def identity(self, user: str) -> dict[str, Path]:
        where = self.certs / "clients" / user
        return {"ca": where / "ca.pem", "cert": where / "client.pem", "key": where / "client.key"}

    def open(self, user: str = "scaler", endpoints: list[str] | None = None) -> EtcdStore:
        return open_as(endpoints or self.endpoints, self.identity(user))

    def etcdctl(self, *arguments: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        who = self.identity(user)
        return subprocess.run(
            [
                str(etcd_binary("etcdctl")), f"--endpoints=https://{self.endpoints[0]}", f"--cacert={who['ca']}",
                f"--cert={who['cert']}", f"--key={who['key']}", *arguments,
            ],
            env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def status(self, user: str = "scaler", *more: str) -> subprocess.CompletedProcess[str]:
        return scaler_sidecar(
            "etcd",
            "status",
            "--etcd",
            ",".join(self.endpoints),
            "--identity",
            str(self.certs / "clients" / user),
            *more,
        )

    def set_up(self, size: int, service: ServiceFile) -> None:
        # Each member has an address of its own on this machine, and thus etcd's usual ports.
        net = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(254)}"
        names = [(f"etcd-{number}", f"{net}.{number}") for number in range(1, size + 1)]
        options = [part for name, address in names for part in ("--member", f"{name}={address},{COMES_FROM}")]
        made = scaler_sidecar("etcd", "certs", str(self.certs), *options)
        assert made.returncode == 0, made.stderr
        for name, address in names:
            machine = self.folder / f"machine-{name}"
            machine.mkdir()
            self.members.append(RealMember(name, address, self.certs / "members" / name, machine, service))
        for member in self.members:
            member.install()
            member.start()
        self.until_answers()
        for _ in range(2):  # again, to show that it may be
            self.authenticate()

    def authenticate(self, user: str = "scaler") -> None:
        done = subprocess.run(
            [str(SERVICE_FILES / "auth.sh")],
            env={
                **os.environ,
                "ENDPOINT": f"https://{self.endpoints[0]}",
                "CERTS": str(self.certs),
                "ETCDCTL": str(etcd_binary("etcdctl")),
                "NODE_USER": user,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def until_answers(self, endpoints: list[str] | None = None) -> None:
        deadline = time.monotonic() + STARTING_S
        store = self.open(endpoints=endpoints)
        try:
            while True:
                try:
                    store.get(PREFIX)
                    return
                except StoreUnavailable:
                    assert time.monotonic() < deadline, "etcd did not become ready"
                    time.sleep(0.1)
                except StoreRefused:
                    return  # it answers, and knows no such user yet
        finally:
            store.close()

    def restart_one_after_another(self) -> None:
        for member in self.members:
            member.kill()
            member.start()
            self.until_answers([f"{member.address}:2379"])

    def end(self) -> None:
        for member in self.members:
            member.kill()


def open_as(endpoints: list[str], identity: Mapping[str, Path]) -> EtcdStore:
    return open_store(endpoints, ca=identity["ca"], cert=identity.get("cert"), key=identity.get("key"))
