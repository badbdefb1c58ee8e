"""A machine's tree from which an image is to be made, and single steps of the provisioning in it, without booting it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .baking import PROJECT
from .machine import Overlay


class SourceImage:
    """``root`` is a layer over ``image``, which stays as it is; the project's bundle lies in ``/bundle``."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._overlay = Overlay(image, folder)
        self.root = self._overlay.root
        bundle = self.root / "bundle"
        shutil.copytree(PROJECT / "ami", bundle / "ami")
        sums = subprocess.run(
            "find . -type f | xargs sha256sum", shell=True, cwd=bundle, capture_output=True, check=True
        )
        (bundle / "SHA256SUMS").write_bytes(sums.stdout)

    def add_program(self, name: str, text: str) -> None:
        self.write(f"/usr/local/bin/{name}", text, 0o755)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        self._overlay.write(path, text, mode)

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        enter = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe", "--as-pid2"]
        enter += ["--resolv-conf=copy-host", f"--directory={self.root}"]
        return subprocess.run([*enter, "/bin/sh", "-euc", script], capture_output=True, text=True, check=False)

    def remove(self) -> None:
        self._overlay.remove()
