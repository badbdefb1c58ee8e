"""``.ci/audit`` never passes for want of data."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[3] / ".ci" / "audit"


@contextmanager
def index(answer: object) -> Iterator[str]:
    """A package index that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def audit(data: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AUDIT_DATA": data, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    return subprocess.run([str(AUDIT), *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("answer", [{}, {"vulnerabilities": []}, "text"])
def test_a_mirror_that_knows_of_no_vulnerability_of_a_vulnerable_release_is_no_data(answer: object) -> None:
    with index(answer) as url:
        for done in (audit(url), audit(url, "--can")):
            assert done.returncode == 75
            assert done.stderr.startswith("NOT AUDITED: ")


def test_an_index_that_does_not_answer_is_no_data() -> None:
    assert audit("http://127.0.0.1:9/").returncode == 75


def test_an_index_that_knows_of_vulnerabilities_is_data() -> None:
    with index({"vulnerabilities": [{"id": "X"}]}) as url:
        assert audit(url, "--can").returncode == 0
