"""The source image of the tests: a plain Debian 12 with systemd and an SSH server, as a tree of files.

Making it takes a minute, so it is kept in ``SCALER_AMI_CACHE`` (default ``/var/tmp/scaler-sidecar-ami``) and used again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SUITE = "bookworm"
#: What a cloud image has besides the minimal system; anything else the provisioning must bring itself.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "ca-certificates", "curl", "iproute2")
#: What a cloud's own image has besides: its first boot follows user-data. debootstrap knows no "provides", hence the last.
STOCK_PACKAGES = (*PACKAGES, "cloud-init", "python3-cffi-backend")
ADMIN = "admin"


def cache_directory() -> Path:
    directory = Path(os.environ.get("SCALER_AMI_CACHE") or "/var/tmp/scaler-sidecar-ami")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def base_tree(packages: tuple[str, ...] = PACKAGES) -> Path:
    """The tree, from the cache or made now. It must not be changed: copy it, or lay something over it."""
    key = hashlib.sha256(repr((SUITE, packages)).encode()).hexdigest()[:12]
    base = cache_directory() / f"debian-{SUITE}-{key}"
    if not base.exists():
        scratch = base.with_suffix(".part")
        shutil.rmtree(scratch, ignore_errors=True)
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", SUITE, str(scratch)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, f"debootstrap failed:\n{made.stdout[-3000:]}{made.stderr}"
        scratch.rename(base)
    return base


def copy_with_admin(target: Path, public_key: str, ssh_port: int) -> None:
    """A copy as a cloud's first boot leaves it: a user who may become root, their key, and SSH on a port of loopback."""
    subprocess.run(["cp", "--archive", "--reflink=auto", str(base_tree()), str(target)], check=True)
    chroot = ["chroot", str(target)]
    subprocess.run([*chroot, "useradd", "--create-home", "--shell", "/bin/bash", ADMIN], check=True)
    (target / f"etc/sudoers.d/{ADMIN}").write_text(f"{ADMIN} ALL=(ALL) NOPASSWD:ALL\n")
    (target / f"home/{ADMIN}/.ssh").mkdir(mode=0o700)
    (target / f"home/{ADMIN}/.ssh/authorized_keys").write_text(public_key)
    subprocess.run([*chroot, "chown", "-R", f"{ADMIN}:{ADMIN}", f"/home/{ADMIN}/.ssh"], check=True)
    (target / "etc/ssh/sshd_config.d/test.conf").write_text(f"ListenAddress 127.0.0.1\nPort {ssh_port}\n")
    # Its port is fixed, and this machine shares the host's network.
    (target / "etc/systemd/system/ssh.socket").symlink_to("/dev/null")
    subprocess.run([*chroot, "systemctl", "--quiet", "enable", "ssh.service"], check=True)
