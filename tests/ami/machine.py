"""A machine: a Debian tree booted with systemd in a container (systemd-nspawn), on the host's network or one of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

METADATA_ADDRESS = "169.254.169.254"
#: A machine's own on its cable: what listens there is reached by its containers as well.
MACHINE_ADDRESS = "10.77.0.2"
_CLONE_NEWNET = 0x40000000
_numbers = count()


def wait_for(what: str, condition: Callable[[], T], deadline_s: float = 60.0) -> T:
    """Ask until the answer is true; what it was then. The sentence says what did not come about."""
    until = time.monotonic() + deadline_s
    while not (answer := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"within {deadline_s:.0f} s not: {what}")
        time.sleep(0.2)
    return answer


class NetworkNamespace:
    """A network of its own, with loopback. What is called through :meth:`call` lives in it, and so do the processes it starts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns") / name
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.ip("link", "set", "lo", "up")
        # One thread for all calls: a child that asked to die with its parent dies with the *thread* that started it.
        self._thread = ThreadPoolExecutor(1, initializer=self.enter)

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", "-n", self.name, *words], check=True)

    def reach_metadata_of(self, host: NetworkNamespace) -> None:
        """Lay a cable to ``host``, which has the metadata service's address: one hop away, as on EC2."""
        self.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", host.name)
        for network, address in ((self, f"{MACHINE_ADDRESS}/24"), (host, "10.77.0.1/24")):
            network.ip("address", "add", address, "dev", "eth0")
            network.ip("link", "set", "eth0", "up")
        host.ip("address", "add", f"{METADATA_ADDRESS}/32", "dev", "eth0")
        self.ip("route", "add", f"{METADATA_ADDRESS}/32", "dev", "eth0")
        # Docker wants it for its containers and, in a machine whose /proc/sys is read-only, can't do it itself.
        self.call(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")

    def call(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        return self._thread.submit(function, *arguments, **named).result()

    def remove(self) -> None:
        self._thread.shutdown()
        subprocess.run(["ip", "netns", "delete", self.name], check=True)

    def enter(self) -> None:
        """Move the calling thread, and what it starts, into this network."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)


class ControlGroup:
    """A control group of its own for one machine. In a common one the machines' systemds would end each other's processes."""

    def __init__(self) -> None:
        self._name = f"scaler-machine-{os.getpid()}-{next(_numbers)}"
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        # The one hierarchy of today's hosts, or on older ones systemd's own beside it.
        hierarchies = [m[1] for m in mounts if m[2] == "cgroup2" or (m[2] == "cgroup" and "name=systemd" in m[3])]
        self._folders = [Path(hierarchy) / self._name for hierarchy in hierarchies]
        for folder in self._folders:
            folder.mkdir()

    def enter_and_run(self, command: Sequence[str]) -> list[str]:
        """The command, with what must come before it."""
        moves = "".join(f"echo $$ >{folder}/cgroup.procs; " for folder in self._folders)
        return ["sh", "-ec", f'{moves}exec "$@"', "sh", *command]

    def remove(self) -> None:
        """Harmless when something still lives in it: then it stays."""
        for folder in self._folders:
            for inner, _, _ in os.walk(folder, topdown=False):
                with suppress(OSError):
                    os.rmdir(inner)


class Machine:
    """``root`` is used in place. Without a ``network`` it is the host's: only for a machine that is being provisioned."""

    def __init__(
        self, root: Path, console: Path, network: NetworkNamespace | None = None, options: Sequence[str] = ()
    ) -> None:
        self.root = root
        self._console = console
        self._network = network
        self._options = tuple(options)
        self._cgroup = ControlGroup()
        self._nspawn: subprocess.Popen[bytes] | None = None

    @property
    def console(self) -> str:
        """All that the machine printed on its console so far."""
        return self._console.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None

    def start(self) -> None:
        """Boot, and return when systemd says that all start jobs are done (well or not)."""
        # Its clocks begin now, as a machine's do: containers otherwise share the host's time since boot.
        uptime = int(time.clock_gettime(time.CLOCK_BOOTTIME))
        command = ["unshare", "--time", f"--boottime=-{uptime}", f"--monotonic=-{uptime}"]
        command += ["systemd-nspawn", "--quiet", f"--directory={self.root}", "--machine=ami-test", "--register=no"]
        command += ["--keep-unit", "--boot", "--resolv-conf=copy-host", "--system-call-filter=@keyring bpf"]
        if self._network:
            command += [f"--network-namespace-path={self._network.path}", "--capability=CAP_NET_ADMIN,CAP_SYSLOG"]
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                self._cgroup.enter_and_run([*command, *self._options]),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                # As the supported systems boot: one cgroup hierarchy, whatever this host has.
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        wait_for(
            f"a first process in the machine; its console:\n{self.console}",
            lambda: self._init_pid() or not self.running,
        )
        assert self.running, self.console

    def wait_booted(self) -> str:
        """systemd's own word for the outcome: ``running`` or ``degraded``."""

        def state() -> str:
            said = self.run("systemctl", "is-system-running", check=False).strip()
            return said if said in ("running", "degraded") else ""

        return wait_for("the machine has booted", state)

    def run(self, *command: str, check: bool = True, user: str | None = None) -> str:
        """Run a program in the machine, as root unless another user is named; what it printed."""
        done = self.try_run(*command, user=user)
        assert done.returncode == 0 or not check, f"{command} failed with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def try_run(self, *command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self._init_pid()}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        enter += ["--time"]
        enter += [
            "--root",
            "--wd",
            "--",
            "env",
            "-i",
            "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LC_ALL=C.UTF-8",
        ]
        if user:
            enter += ["runuser", "-u", user, "--"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=120, check=False)

    def write(self, path: str, text: str) -> None:
        """A file in the running machine, also where its memory file systems lie over the disk."""
        self.run("sh", "-ec", 'mkdir -p "$(dirname "$1")"; printf %s "$2" >"$1"', "sh", path, text)

    def property_of(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def wait_ended(self, deadline_s: float = 60.0) -> int:
        """Wait until the machine has powered off by itself; nspawn's exit code, 0 after a clean one."""
        assert self._nspawn is not None
        try:
            return self._nspawn.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the machine is still on after {deadline_s:.0f} s:\n{self.console[-4000:]}") from None

    def power_off(self) -> None:
        self.press_power_button()
        self.wait_ended()

    def press_power_button(self) -> None:
        """Ask it to shut down in order, and do not wait."""
        self.run("systemctl", "poweroff", check=False)

    def destroy(self) -> None:
        """End it, however it is. Harmless when it has ended."""
        self._end()
        self._cgroup.remove()

    def _end(self) -> None:
        if self._nspawn is None or self._nspawn.poll() is not None:
            return
        pid = self._init_pid()
        if pid:
            subprocess.run(["kill", "-KILL", str(pid)], check=False)
        try:
            self._nspawn.wait(10)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()

    def _init_pid(self) -> int:
        """The machine's first process as the host sees it; 0 before it is systemd, that is until it stands in its own tree."""
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        for pid in children.read_text().split() if children.exists() else []:
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return int(pid)
        return 0


class Overlay:
    """A copy-on-write copy of a tree: what an instance's volume is to its image."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.root = folder / "root"
        upper, work = folder / "upper", folder / "work"
        for path in (self.root, upper, work):
            path.mkdir(parents=True)
        layers = f"lowerdir={image},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)], check=True)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file that this copy has and the image has not."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def remove(self) -> None:
        subprocess.run(["umount", str(self.root)], check=True)
