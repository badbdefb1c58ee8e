"""An HTTP server that answers as a test tells it to, for answers that no well-behaved ClearML server gives."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        script: Script = self.server.script  # type: ignore[attr-defined]
        call = self.path.partition("?")[0].rpartition("/")[2]
        script.requests.append(Request(call, json.loads(body) if body else None, dict(self.headers)))
        script.reply_to(call)(self)

    do_GET = do_POST

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Request:
    call: str
    body: Any
    headers: dict[str, str]


@dataclass
class Script:
    """What to answer, per call; the last reply of a list stays."""

    replies: dict[str, list[Reply]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def calls(self) -> list[str]:
        return [request.call for request in self.requests]

    def reply_to(self, call: str) -> Reply:
        replies = self.replies[call]
        return replies.pop(0) if len(replies) > 1 else replies[0]


class ScriptedServer:
    def __init__(self) -> None:
        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        self.script = Script(
            {"auth.login": [data({"token": token()})]}, url=f"http://127.0.0.1:{self._httpd.server_port}"
        )
        self._httpd.script = self.script  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()


def token(lives_s: float = 3600) -> str:
    claims = {
        "exp": int(time.time() + lives_s),
        "api_version": "2.31",
        "server_version": "2.0.0",
        "feature_set": "basic",
    }
    return jwt.encode(claims, "k" * 32, algorithm="HS256")


def answer(status: int, subcode: int, message: str, data: Any) -> Reply:
    document = {"meta": {"result_code": status, "result_subcode": subcode, "result_msg": message}, "data": data}
    body = json.dumps(document).encode()
    return lambda handler: handler.send(status, body, **{"Content-Type": "application/json"})


def data(value: Any) -> Reply:
    return answer(200, 0, "OK", value)


def raw(status: int, body: bytes, **headers: str) -> Reply:
    return lambda handler: handler.send(status, body, **headers)


def cut_off(handler: Handler) -> None:
    """A whole header and half a body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"meta": ')
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """A byte now and then, for much longer than anybody should wait."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    try:
        for _ in range(400):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass
    handler.close_connection = True
