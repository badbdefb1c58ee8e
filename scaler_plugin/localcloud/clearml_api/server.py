"""The HTTP server: on loopback unless told otherwise, one thread per connection, connections stay open.

Built on the standard library's server because faults need the socket itself (hang, drop, answer after the effect) and
because the routing is one pattern; a web framework would add only its start-up time.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from scaler_plugin.localcloud.clearml_api.answers import API_VERSION, ApiError, Document, envelope
from scaler_plugin.localcloud.clearml_api.dispatch import Answer, Dispatcher, Request
from scaler_plugin.localcloud.clearml_api.faults import Fault, Faults, parse_fault

#: How many calls the journal remembers: hours of a dozen polling agents.
JOURNAL_LENGTH = 200_000


class ClearmlApiServer(ThreadingHTTPServer):
    """The server with its journal and faults. ``faults`` is None unless they were allowed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, dispatcher: Dispatcher, faults: Faults | None, host: str = "127.0.0.1") -> None:
        super().__init__((host, port), _Handler)
        self.dispatcher = dispatcher
        self.faults = faults
        self.journal: deque[Document] = deque(maxlen=JOURNAL_LENGTH)
        self.journal_lock = threading.Lock()
        self.calls = 0

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def note(self, method: str, request: Request, answer: Answer, began: float, fault: Fault | None) -> None:
        """Write a line of the journal."""
        with self.journal_lock:
            self.calls += 1
            line: Document = {
                "n": self.calls,
                "t": began,
                "took_s": round(time.time() - began, 6),
                "method": method,
                "action": request.action or request.path,
                "worker": answer.worker or None,
                "task": answer.task or None,
                "address": request.address,
                "status": answer.status,
            }
            if fault:
                line["fault"] = True
            self.journal.append(line)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: ClearmlApiServer
    protocol_version = "HTTP/1.1"
    # Answers are small; waiting to fill packets costs 40 ms each.
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:
        """No access log: the journal has it."""

    def handle(self) -> None:
        """Serve the connection; one that the client breaks off is nobody's problem."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        url = urlsplit(self.path)
        if url.path.startswith("/_"):
            self._control(url.path, url.query, body)
            return
        if encoding := self.headers.get("Content-Encoding"):
            self._send(415, f"Content encoding is not supported ({encoding})".encode(), "text/plain")
            return
        request = Request(
            path=url.path,
            query=url.query,
            body=body,
            authorization=self.headers.get("Authorization"),
            content_type=self.headers.get("Content-Type") or "",
            caller=self.headers.get("X-ClearML-Worker") or "",
            address=str(self.client_address[0]),
        )
        self._answer(request)

    def _answer(self, request: Request) -> None:
        began = time.time()
        fault = self.server.faults.hit(request.action) if self.server.faults else None
        if fault and not fault.after:
            time.sleep(fault.hang_s)
        if fault is None or fault.after or not (fault.status or fault.drop):
            answer = self.server.dispatcher.answer(request)
        else:
            answer = Answer(0, b"", request.caller)
        if fault and fault.after:
            time.sleep(fault.hang_s)
        if fault:
            answer = _spoiled(answer, fault, request)
        self.server.note(self.command, request, answer, began, fault)
        if fault and fault.drop:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(answer.status, answer.body)

    def _send(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _send_json(self, data: object, status: int = 200) -> None:
        self._send(status, json.dumps(data).encode())

    def do_OPTIONS(self) -> None:
        """Browsers ask; anything is allowed on loopback."""
        self._send(200, b"", "text/html")

    def do_GET(self) -> None:
        """All methods are the same to the server."""
        self._serve()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET

    # --- control, for tests ---------------------------------------------------------------------------------------

    def _control(self, path: str, query: str, body: bytes) -> None:
        if path == "/_journal":
            since = int(parse_qs(query).get("since", ["0"])[0])
            with self.server.journal_lock:
                lines = [line for line in self.server.journal if line["n"] > since]
            self._send_json(lines)
        elif path == "/_transitions":
            state = self.server.dispatcher.state
            with state.transaction():
                transitions = state.transitions()
            self._send_json(transitions)
        elif path == "/_faults" and self.server.faults is not None:
            self._control_faults(self.server.faults, body)
        else:
            self._send_json({"error": f"There is no {path} here."}, 404)

    def _control_faults(self, faults: Faults, body: bytes) -> None:
        if self.command == "DELETE":
            faults.clear()
        elif self.command == "POST":
            try:
                data = json.loads(body)
                for rule in [parse_fault(item) for item in (data if isinstance(data, list) else [data])]:
                    faults.add(rule)
            except ValueError as error:
                self._send_json({"error": str(error)}, 400)
                return
        self._send_json(faults.listing())


def _spoiled(answer: Answer, fault: Fault, request: Request) -> Answer:
    """What the fault makes of the answer; status 0 in the journal means that none was sent."""
    if fault.drop:
        return replace(answer, status=0, body=b"")
    if fault.status:
        error = ApiError(fault.status, fault.subcode, fault.message)
        body = json.dumps(envelope(request.action, API_VERSION, None, error=error)).encode()
        return replace(answer, status=fault.status, body=body)
    return answer
