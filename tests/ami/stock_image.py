"""An instance of a stock image: a plain Debian with the cloud-init of its distribution, which finds EC2's metadata service and does
what the user-data says.

In the machine's network are, besides what :class:`Stage` has, the web server with the bundle and a way to the package index for
apt and pip. What a container does not have of an EC2 instance it is given before cloud-init starts: what cloud-init knows EC2 by,
and a ``/run`` that holds no programs, as the distributions' initial RAM disks mount it.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import sys
import threading
import urllib.request
from datetime import datetime, timedelta, timezone
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from scaler_plugin.etcd_care.certificates import issue_member, new_authority
from scaler_plugin.localcloud.imds import ImdsServer

from . import debian, package_index
from .baking import PROJECT
from .stage import POOL, Stage
from .way_out import WayOut

TRUSTED = "etc/ssl/certs/ca-certificates.crt"

#: Only EC2 is looked for.
CLOUD = "datasource_list: [Ec2]\nnetwork: {config: disabled}\n"
#: What cloud-init knows EC2 by, on machines with Xen, where a container has no DMI either.
UUID = "ec2b1e5d-0c0f-4a54-9c3f-000000000000\n"
SEES_EC2 = """[Service]
TemporaryFileSystem=/sys
BindReadOnlyPaths=/sys/block /sys/bus /sys/class /sys/dev /sys/devices /sys/fs /sys/kernel /sys/module
BindReadOnlyPaths=/etc/test-uuid:/sys/hypervisor/uuid
"""
NO_PROGRAMS = """[Unit]
DefaultDependencies=no
Before=sysinit.target cloud-init-local.service
[Service]
Type=oneshot
ExecStart=/bin/mount -o remount,noexec /run
[Install]
WantedBy=sysinit.target
"""


#: As the service lists its folders, and what it has besides for every instance.
FOLDERS = {
    "meta-data": "ami-launch-index\ninstance-id\ninstance-type\nlocal-hostname\nplacement/",
    "meta-data/placement": "availability-zone\nregion",
    "dynamic/instance-identity": "document",
}
MORE = {"meta-data/ami-launch-index": "0", "meta-data/local-hostname": "ip-10-77-0-2"}
VERSION = "2021-03-23"


class WholeMetadata(ImdsServer):
    """As cloud-init reads it: a dated version of it, folder by folder."""

    def value(self, path: str) -> str | None:
        inner = path.strip("/").removeprefix(f"{VERSION}/")
        return FOLDERS.get(inner) or MORE.get(inner) or super().value(inner)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def pack_bundle(folder: Path) -> Path:
    bundle = folder / "ami-bundle.tar.gz"
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    subprocess.run([PROJECT / "ami/bundle.sh", bundle], check=True, env=environment)
    return bundle


class StockStage(Stage):
    metadata_server = WholeMetadata

    def __init__(self, bundle: Path, folder: Path, name: str) -> None:
        self._bundle = bundle
        super().__init__(debian.base_tree(debian.STOCK_PACKAGES), folder, name)

    def _build(self, image: Path, name: str) -> None:
        super()._build(image, name)
        self.bundle_sha256 = hashlib.sha256(self._bundle.read_bytes()).hexdigest()
        self.bundle_url = self._serve(self._bundle)
        way_out = WayOut(self.network)
        self._cleanup.callback(way_out.close)
        self.file("/etc/apt/apt.conf.d/00test", f'Acquire::http::Proxy "{way_out.url}";\n')
        trusted = package_index.certificates()
        if trusted:
            self.file("/etc/index-certificates.pem", trusted.read_text())
        pip = {"proxy": way_out.url} | ({"cert": "/etc/index-certificates.pem"} if trusted else {})
        self.file("/etc/pip.conf", package_index.pip_conf(pip))
        self.file("/etc/cloud/cloud.cfg.d/90_test.cfg", CLOUD)
        # The network is laid, and nobody in it gives addresses: cloud-init shall not wait for one.
        (self.machine.root / "usr/sbin/dhclient").unlink()
        self.file("/etc/test-uuid", UUID)
        for unit in ("cloud-init-local.service", "cloud-init.service"):
            self.setting(unit, SEES_EC2)
        self.file("/etc/systemd/system/run-noexec.service", NO_PROGRAMS)
        enable = ["systemctl", f"--root={self.machine.root}", "--quiet", "enable", "run-noexec.service"]
        subprocess.run(enable, check=True)
        # The image of a cloud has no identity yet.
        self.file("/etc/machine-id", "")

    def user_data(self, first_boot: dict[str, str] | None = None, **pool: Any) -> str:
        """What ``bootstrap user-data`` prints for the pool, whose configuration it publishes."""
        bundle = {"bundle_url": self.bundle_url, "bundle_sha256": self.bundle_sha256}
        self.push_config(idle_timeout="never", first_boot={**bundle, **(first_boot or {})}, **pool)
        return self.sidecar_command("bootstrap", "user-data", str(self.folder / "scaler.json"), "--pool", POOL)

    def other_instances_user_data(self) -> list[str]:
        """What those were launched with that the node launched."""
        answer = self.network.call(urllib.request.urlopen, f"{self.ec2.url}/_instances")
        return [str(one["user_data"]) for one in json.load(answer) if one["id"] != self.instance_id]

    def _serve(self, bundle: Path) -> str:
        """By HTTPS, under a certificate of an authority that the machine trusts."""
        now = datetime.now(timezone.utc)
        authority = new_authority("test", now)
        pair = issue_member(authority, "files", ["127.0.0.1"], now + timedelta(days=1), now)
        certificate, key = self.folder / "files.pem", self.folder / "files.key"
        certificate.write_bytes(pair.certificate_pem())
        key.write_bytes(pair.key_pem())
        own = (self.machine.root / TRUSTED).read_text()
        self.file(f"/{TRUSTED}", own + authority.certificate_pem().decode())
        handler = partial(QuietHandler, directory=str(bundle.parent))
        server = self.network.call(ThreadingHTTPServer, ("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._cleanup.callback(server.server_close)
        self._cleanup.callback(server.shutdown)
        return f"https://127.0.0.1:{server.server_address[1]}/{bundle.name}"
