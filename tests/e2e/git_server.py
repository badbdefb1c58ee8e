"""A git repository over HTTP behind a name and a password that lets its client wait: who clones can be looked at meanwhile."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

#: Longer than any test looks; then the client gets its answer anyway.
PATIENCE_S = 1800.0


class GitServer:
    """Serves a bare repository's files ("dumb" HTTP), one commit with one file, on loopback."""

    def __init__(self, folder: Path, user: str, password: str, file: str, text: str) -> None:
        self.commit = _bare_repository(folder, file, text)
        self._login = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        #: A client has shown its password, and waits for the first answer.
        self.asked = threading.Event()
        self._answer = threading.Event()
        handler = partial(_Handler, self, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/repository.git"

    def let_go(self) -> None:
        self._answer.set()

    def admits(self, login: str | None) -> bool:
        if login != self._login:
            return False
        self.asked.set()
        self._answer.wait(PATIENCE_S)
        return True

    def __enter__(self) -> GitServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()
        self._server.shutdown()
        self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, server_: GitServer, *arguments: Any, **named: Any) -> None:
        self._git = server_
        super().__init__(*arguments, **named)

    def do_GET(self) -> None:
        if self._git.admits(self.headers.get("Authorization")):
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Not into the test's own output."""


def _bare_repository(folder: Path, file: str, text: str) -> str:
    """Make ``folder/repository.git``; the id of its commit."""
    work, bare = folder / "work", folder / "repository.git"
    work.mkdir(parents=True)
    (work / file).write_text(text)
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in {"NAME": "a", "EMAIL": "a@x"}.items()
    }

    def git(*arguments: str) -> str:
        # Nothing of the person's own settings.
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", **who}
        return subprocess.run(["git", *arguments], cwd=work, env=env, check=True, capture_output=True, text=True).stdout

    git("init", "--initial-branch=main")
    git("add", file)
    git("commit", "--message=one")
    git("clone", "--bare", str(work), str(bare))
    git("--git-dir", str(bare), "update-server-info")
    return git("rev-parse", "HEAD").strip()
