"""The docker image in which tasks of these tests run, and the registry that the bake pulls it from.

It has everything that the agent looks for inside a container (git, Python with pip, itself), so nothing is downloaded when a task
starts. A pool that runs its tasks in it needs :data:`OFFLINE_CONF` besides, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from . import debian, package_index

NAME = "scaler-tests/task"
TAG = "1"

#: The agent's Python in the image; on the node it is in the same place, so what names it is right in both.
PYTHON = "/opt/scaler-sidecar/venv/bin/python"

#: For a pool's ``extra_clearml_conf``, as ami/README.md has it: without it the agent has each container fetch libraries for OpenCV
#: from the distribution, and look in the package index for a newer agent.
OFFLINE_CONF = """agent.docker_install_opencv_libs: false
agent.extra_docker_arguments: ["-e", "PIP_NO_INDEX=1"]
"""

#: Tasks run in the agent's own environment.
ENVIRONMENT = {
    "PATH": f"{PYTHON.rpartition('/')[0]}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "CLEARML_AGENT_SKIP_PIP_VENV_INSTALL": PYTHON,
    "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1",
}

_INSTALL = f"""set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y --no-install-recommends install git python3 python3-venv
python3 -m venv {PYTHON.removesuffix("/bin/python")}
{PYTHON} -m pip install --quiet --no-cache-dir --constraint /constraints.txt clearml-agent clearml
"""
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache", "var/lib/apt/lists")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def layer() -> Path:
    """The image's one layer, a tar file, from the cache or made now (a minute)."""
    base = debian.base_tree()
    constraints = _constraints()
    key = hashlib.sha256(repr((base.name, _INSTALL, _LEFT_OUT, constraints)).encode()).hexdigest()[:12]
    made = debian.cache_directory() / f"task-image-{key}.tar"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=debian.cache_directory()) as scratch:
            tree = Path(scratch) / "tree"
            subprocess.run(["cp", "--archive", "--reflink=auto", str(base), str(tree)], check=True)
            (tree / "constraints.txt").write_text(constraints)
            options = ["--quiet", "--register=no", "--keep-unit", "--pipe", "--resolv-conf=copy-host", "--as-pid2"]
            done = subprocess.run(
                [
                    *("systemd-nspawn", f"--directory={tree}", *options),
                    *package_index.nspawn_options(Path(scratch)),
                    *("/bin/sh", "-c", _INSTALL),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (
                f"the task image could not be made:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )
            package_index.leave_no_trace(tree)
            part = Path(scratch) / "layer.tar"
            left_out = [f"--exclude=./{path}/*" for path in _LEFT_OUT] + ["--exclude=./constraints.txt"]
            subprocess.run(["tar", "-C", str(tree), *left_out, "-cf", str(part), "."], check=True)
            shutil.move(part, made)
    return made


def _constraints() -> str:
    """The versions of the node image's lock, without its hashes."""
    lock = (Path(__file__).parents[2] / "ami/requirements.lock").read_text()
    return "".join(f"{pin}\n" for pin in re.findall(r"(?m)^([\w.-]+==[^\\\n]+?) *\\?$", lock))


class Registry:
    """A docker registry on loopback that has this one image; read-only. Docker takes one on loopback without TLS."""

    def __init__(self) -> None:
        tar = layer()
        diff = _digest(subprocess.run(["sha256sum", tar], capture_output=True, text=True, check=True).stdout.split()[0])
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": [f"{name}={value}" for name, value in ENVIRONMENT.items()], "Cmd": ["bash"]},
            "rootfs": {"type": "layers", "diff_ids": [diff]},
        }
        config_bytes = json.dumps(config).encode()
        config_digest = _digest(hashlib.sha256(config_bytes).hexdigest())
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor("config.v1+json", config_digest, len(config_bytes)),
            "layers": [_descriptor("layer.v1.tar", diff, tar.stat().st_size)],
        }
        manifest_bytes = json.dumps(manifest).encode()
        answers: dict[str, bytes | Path] = {
            "/v2/": b"{}",
            f"/v2/{NAME}/blobs/{config_digest}": config_bytes,
            f"/v2/{NAME}/blobs/{diff}": tar,
        }
        for reference in (TAG, _digest(hashlib.sha256(manifest_bytes).hexdigest())):
            answers[f"/v2/{NAME}/manifests/{reference}"] = manifest_bytes
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(answers))
        self._server.daemon_threads = True

    @property
    def image(self) -> str:
        """What to ask docker for."""
        return f"127.0.0.1:{self._server.server_address[1]}/{NAME}:{TAG}"

    def __enter__(self) -> Registry:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def pulled(root: Path) -> str:
    """The name of the task image on a baked disk, as docker knows it and a pool's ``docker_image`` must name it."""
    repositories = json.loads((root / "var/lib/docker/image/overlay2/repositories.json").read_text())["Repositories"]
    (name,) = (tag for tags in repositories.values() for tag in tags if tag.endswith(f"/{NAME}:{TAG}"))
    return str(name)


def _digest(sha256: str) -> str:
    return f"sha256:{sha256}"


def _descriptor(kind: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": size}


def _handler(answers: dict[str, bytes | Path]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            answer = answers.get(self.path)
            if answer is None:
                self.send_error(404)
                return
            self.send_response(200)
            if isinstance(answer, Path):
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Content-Length", str(answer.stat().st_size))
                self.end_headers()
                if with_body:
                    with answer.open("rb") as file:
                        shutil.copyfileobj(file, self.wfile)
                return
            if "/manifests/" in self.path:
                self.send_header("Content-Type", _MANIFEST)
                self.send_header("Docker-Content-Digest", _digest(hashlib.sha256(answer).hexdigest()))
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if with_body:
                self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    return Handler
