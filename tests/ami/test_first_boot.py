"""A stock image: what ``bootstrap/cloud-init.yaml`` does at the first boot of a plain Debian, and the node that comes of it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from . import debian, package_index
from .baking import PROJECT
from .machine import Machine
from .stage import Stage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def bundle_url(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Where the bundle can be fetched, and its hash."""
    folder = tmp_path / "www"
    bundle = folder / "ami-bundle.tar.gz"
    subprocess.run(
        [PROJECT / "ami/bundle.sh", bundle], check=True, env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/{bundle.name}", hashlib.sha256(bundle.read_bytes()).hexdigest()
    server.shutdown()
    server.server_close()


def as_cloud_init_would(machine: Machine, url: str, sha256: str) -> None:
    config = yaml.safe_load((PROJECT / "bootstrap/cloud-init.yaml").read_text())
    for command in config["bootcmd"]:
        machine.run(*command)
    for file in config["write_files"]:
        text = file["content"].replace("https://FILL-IN/ami-bundle.tar.gz", url).replace("FILL-IN", sha256)
        machine.run(
            "sh", "-c", 'printf %s "$1" >"$2" && chmod "$3" "$2"', "sh", text, file["path"], file["permissions"]
        )
    for command in config["runcmd"]:
        machine.run(*command)


def test_a_stock_image_becomes_a_node_at_its_first_boot(
    tmp_path: Path, bundle_url: tuple[str, str], artifacts: Path, tools: None
) -> None:
    disk = tmp_path / "disk"
    debian.copy_with_admin(disk, "", 22)
    # The machine shares the host's network, to reach the package index; its firewall must not be laid around the host.
    harmless = disk / "etc/systemd/system/scaler-firewall.service.d/test.conf"
    harmless.parent.mkdir(parents=True)
    harmless.write_text("[Service]\nExecStart=\nExecStart=/bin/true\n")
    machine = Machine(disk, tmp_path / "console.log", options=package_index.nspawn_options(tmp_path))
    try:
        machine.start()
        machine.wait_booted()
        as_cloud_init_would(machine, *bundle_url)
        assert "scaler-sidecar: ready" in machine.console
        for unit in ("scaler-firewall.service", "scaler-deadman.timer"):
            assert machine.property_of(unit, "ActiveState") == "active", unit
        assert (
            machine.property_of("scaler-bootstrap.service", "ActiveState") == "activating"
        )  # here is no metadata service
        assert machine.property_of("scaler-first-boot-limit.timer", "ActiveState") == "inactive"
        assert machine.try_run("sh", "-c", "command -v dockerd").returncode != 0  # only if the pool wants it
        machine.power_off()
    finally:
        machine.destroy()
        (artifacts / "first-boot-console.log").write_text(machine.console)
    package_index.leave_no_trace(disk)
    harmless.unlink()

    stage = Stage(disk, tmp_path / "stage", "ami-first-boot")
    try:
        stage.push_config(idle_timeout="never")
        stage.launch()
        stage.wait_polling()
    finally:
        stage.close()
