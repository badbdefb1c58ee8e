"""A proxy for the machines of a network that has no way out: it listens there and fetches from the host's network.

Only apt and pip are told of it; everything else in the machine stays in its network.
"""

from __future__ import annotations

import http.client
import selectors
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from .machine import NetworkNamespace

PATIENCE_S = 120


class WayOut:
    def __init__(self, network: NetworkNamespace) -> None:
        # Sockets belong to the network of the thread that makes them: the listening one there, those outward here.
        self._server = network.call(ThreadingHTTPServer, ("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """What apt asks: a whole address, without encryption."""
        address = urlsplit(self.path)
        self.close_connection = True
        upstream = http.client.HTTPConnection(address.netloc, timeout=PATIENCE_S)
        headers = {name: value for name, value in self.headers.items() if "connection" not in name.lower()}
        upstream.request("GET", address._replace(scheme="", netloc="").geturl() or "/", headers=headers)
        answer = upstream.getresponse()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "keep-alive", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        shutil.copyfileobj(answer, self.wfile)
        upstream.close()

    def do_CONNECT(self) -> None:
        """What pip asks: a tunnel."""
        host, _, port = self.path.rpartition(":")
        self.close_connection = True
        with socket.create_connection((host, int(port)), PATIENCE_S) as outside, selectors.DefaultSelector() as waiting:
            self.send_response_only(200)
            self.end_headers()
            waiting.register(outside, selectors.EVENT_READ, self.connection)
            waiting.register(self.connection, selectors.EVENT_READ, outside)
            while ready := waiting.select(PATIENCE_S):
                for key, _ in ready:
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    key.data.sendall(data)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""
