"""The metadata service's IPv6 address, one hop away from a stage's machine and its containers. Whoever asks is answered."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from .stage import Stage

METADATA_ADDRESS_6 = "fd00:ec2::254"
URL_6 = f"http://[{METADATA_ADDRESS_6}]/latest/api/token"
ANSWER = "answered"
#: Of the machine's containers.
_CONTAINERS_NET = "fd00:d0c::/64"
_HOST, _MACHINE, _BRIDGE, _CONTAINER = "fd00:77::1", "fd00:77::2", "fd00:d0c::1", "fd00:d0c::2"


class _Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER.encode())

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def metadata_on_ipv6(stage: Stage) -> Iterator[None]:
    host, network = stage._metadata_host, stage.network
    for namespace, address in ((host, f"{_HOST}/64"), (host, f"{METADATA_ADDRESS_6}/128"), (network, f"{_MACHINE}/64")):
        namespace.ip("-6", "address", "replace", address, "dev", "eth0", "nodad")
    host.ip("-6", "route", "replace", _CONTAINERS_NET, "via", _MACHINE)
    network.ip("-6", "route", "replace", f"{METADATA_ADDRESS_6}/128", "via", _HOST)
    # As docker does it where it gives its containers such addresses, and /proc/sys is not read-only as in these machines.
    network.call(Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text, "1")
    server = host.call(_Server, (METADATA_ADDRESS_6, 80), _Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def give_ipv6(stage: Stage, container: str) -> None:
    """What docker does for a network with IPv6, and can't in a machine whose /proc/sys is read-only."""
    stage.network.ip("-6", "address", "replace", f"{_BRIDGE}/64", "dev", "docker0", "nodad")
    key = stage.machine.run("docker", "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", container).strip()
    # From outside of the machine, where /proc/sys may be written; what is below net is always that of whoever opens it.
    namespace = Path(f"/proc/{stage.machine._init_pid()}/root/run/docker/netns", Path(key).name)
    script = f"""echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6
echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6
ip -6 address replace {_CONTAINER}/64 dev eth0 nodad
ip -6 route replace default via {_BRIDGE}"""
    subprocess.run(["nsenter", f"--net={namespace}", "sh", "-ec", script], check=True)
