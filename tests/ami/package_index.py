"""How this host reaches its package index, handed to a machine that is being provisioned: never part of an image."""

from __future__ import annotations

import configparser
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

#: The host's pip settings that say where packages are and whom to trust; file paths of the host mean nothing in the machine.
_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy")
_CERTIFICATES = "/run/host-certificates.pem"


def nspawn_options(folder: Path) -> list[str]:
    """Options for ``systemd-nspawn`` that give the machine this host's way to the index."""
    trusted = certificates()
    options = [f"--bind-ro={trusted}:{_CERTIFICATES}"] if trusted else []
    file = folder / "pip.conf"
    file.write_text(pip_conf({"cert": _CERTIFICATES} if trusted else {}))
    return [*options, f"--bind-ro={file}:/etc/pip.conf"]


def pip_conf(more: Mapping[str, str]) -> str:
    """The host's settings as the machine's ``/etc/pip.conf``, with ``more`` that holds only there."""
    config = configparser.ConfigParser(interpolation=None)
    own = {name: value for name in _SETTINGS if (value := _setting(name)) and "file:" not in value}
    config["global"] = {**own, **more}
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def certificates() -> Path | None:
    """The file of authorities that the host trusts for the index, if it has one of its own."""
    named = _setting("cert")
    return Path(named).resolve() if named and Path(named).exists() else None


def leave_no_trace(root: Path) -> None:
    """Remove the empty files over which the settings were mounted."""
    for path in (root / "etc/pip.conf", root / _CERTIFICATES.lstrip("/")):
        if path.exists() and path.stat().st_size == 0:
            path.unlink()


def _setting(name: str) -> str:
    variable = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
    if variable:
        return variable
    for section in ("global", "install"):
        found = subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", f"{section}.{name}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode == 0:
            return found.stdout.strip()
    return ""
