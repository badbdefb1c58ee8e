"""What a machine stands on: by default this host's own network and disk; a :class:`NamespaceGround` gives each its own.

With the latter a machine has a network namespace with an address of its own, so that it can be cut off from any server without
touching the others, and servers see who calls. Needs root and ``ip`` (iproute2). Linux only.

Guarantees: closed, nothing of it is left; what a killed process leaves behind is removed by the next one that opens a ground.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from scaler_plugin.errors import HostError

#: In the names of all that is made here, followed by the process id of the owner; interface names have at most 15 characters.
PREFIX = "scl"
_NETNS = Path("/run/netns")
_FIRST_MACHINE = 101
_FIRST_SERVER = 11


class Ground(Protocol):
    """Where the layer puts its machines."""

    def settle(self, folder: Path) -> tuple[str, ...]:
        """Prepare for the machine in ``folder``; the words to put before its supervisor's command."""

    def vacate(self, folder: Path) -> None:
        """The machine is off for good. Harmless when it never settled."""


def missing_for_namespaces() -> str | None:
    """What this host lacks for a :class:`NamespaceGround`, as a sentence."""
    absent = [
        package for program, package in (("ip", "iproute2"), ("nsenter", "util-linux")) if not shutil.which(program)
    ]
    if absent:
        return f"Machines in network namespaces need {' and '.join(absent)}: apt-get install {' '.join(absent)}."
    if os.geteuid() != 0:
        return "Machines in network namespaces need root: run it as root."
    try:
        with NamespaceGround():
            return None
    except HostError as error:
        return f"Machines in network namespaces cannot be made here: {error}"


class NamespaceGround:
    """A bridge on which the servers have an address each, and a namespace per machine behind it.

    One at a time in a process. ``state_disk_bytes`` gives each machine's state directory a disk of that size.
    """

    def __init__(self, state_disk_bytes: int | None = None) -> None:
        self._state_disk_bytes = state_disk_bytes
        self._tag = f"{PREFIX}{os.getpid()}"
        self._bridge = f"{self._tag}b"
        self._servers: dict[str, str] = {}
        self._machines: dict[str, str] = {}
        self._lock = threading.Lock()
        self._net = ""

    def __enter__(self) -> NamespaceGround:
        sweep()
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        taken = _run("ip", "-o", "-4", "route", "show", "table", "all")
        # By process id, so that grounds of several processes do not meet.
        own = os.getpid() % 32768
        nets = (f"10.{128 + (n >> 8)}.{n & 255}" for n in (*range(own, 32768), *range(own)))
        self._net = next(net for net in nets if f"{net}." not in taken)
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", f"{self._net}.1/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")

    def close(self) -> None:
        """Take everything down. Harmless when called twice."""
        with self._lock:
            self._machines.clear()
            self._servers.clear()
        _remove(self._tag)

    def server_address(self, name: str) -> str:
        """The address on which the server of this name is to listen; made at the first call."""
        with self._lock:
            if name not in self._servers:
                address = f"{self._net}.{_FIRST_SERVER + len(self._servers)}"
                _run("ip", "address", "add", f"{address}/32", "dev", self._bridge)
                self._servers[name] = address
            return self._servers[name]

    @property
    def server_addresses(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._servers.values())

    def address(self, machine: str) -> str:
        """The machine's own; known also after its end."""
        with self._lock:
            return self._machines[machine]

    def settle(self, folder: Path) -> tuple[str, ...]:
        with self._lock:
            number = len(self._machines)
            address = self._machines.setdefault(folder.name, f"{self._net}.{_FIRST_MACHINE + number}")
        namespace, veth = self._namespace(folder.name), f"{self._tag}v{number}"
        _run("ip", "netns", "add", namespace)
        _run("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _run("ip", "link", "set", veth, "master", self._bridge, "up")
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", namespace, "link", "set", "eth0", "up")
        if self._state_disk_bytes is not None:
            state = folder / "run"
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            _run("mount", "-t", "tmpfs", "-o", f"mode=0700,size={self._state_disk_bytes}", self._tag, str(state))
        return "nsenter", f"--net={_NETNS / namespace}", "--"

    def vacate(self, folder: Path) -> None:
        with suppress(HostError):
            _run("ip", "netns", "delete", self._namespace(folder.name))
        if self._state_disk_bytes is not None:
            with suppress(HostError):
                _run("umount", str(folder / "run"))

    def cut(self, machine: str, *servers: str) -> None:
        """From now on no packet of the machine reaches these servers, and nobody is told: what goes out just disappears."""
        for server in servers:
            # To the machine's own loopback, which drops what is not for it. A blackhole route would tell the sender at once.
            _run("ip", "-n", self._namespace(machine), "route", "replace", f"{self._servers[server]}/32", "dev", "lo")

    def heal(self, machine: str, *servers: str) -> None:
        """Undo :meth:`cut`."""
        for server in servers:
            with suppress(HostError):  # the machine may have ended meanwhile
                _run(
                    "ip", "-n", self._namespace(machine), "route", "delete", f"{self._servers[server]}/32", "dev", "lo"
                )

    def _namespace(self, machine: str) -> str:
        return f"{self._tag}-{machine}"


def sweep() -> None:
    """Remove what killed processes have left behind."""
    for tag in _tags():
        if not Path(f"/proc/{tag.removeprefix(PREFIX)}").exists():
            _remove(tag)


def _tags() -> set[str]:
    names = [link.name for link in Path("/sys/class/net").iterdir()]
    names += [entry.name for entry in _NETNS.iterdir()] if _NETNS.is_dir() else []
    names += [source for source, _ in _mounts()]
    tags = set()
    for name in names:
        digits = len(name.removeprefix(PREFIX)) - len(name.removeprefix(PREFIX).lstrip("0123456789"))
        if name.startswith(PREFIX) and digits:
            tags.add(name[: len(PREFIX) + digits])
    return tags


def _remove(tag: str) -> None:
    for source, place in _mounts():
        if source == tag:
            with suppress(HostError):
                _run("umount", "--lazy", place)
    for namespace in [entry.name for entry in _NETNS.iterdir()] if _NETNS.is_dir() else []:
        if namespace.startswith(f"{tag}-"):
            with suppress(HostError):
                _run("ip", "netns", "delete", namespace)
    for link in Path("/sys/class/net").iterdir():
        if link.name.startswith((f"{tag}b", f"{tag}v")):
            with suppress(HostError):  # the other end of a veth goes along with its namespace, a moment later
                _run("ip", "link", "delete", link.name)


def _mounts() -> list[tuple[str, str]]:
    """Source and place of every mount."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [(line[0], line[1].replace("\\040", " ")) for line in lines]


def _run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}.")
    return done.stdout
