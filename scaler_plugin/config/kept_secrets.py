"""Secrets from AWS kept for this boot in a file of this user's own, so that every process of a node need not fetch them again.

Loading boto3 costs 40 MB, more than a sidecar that does not lead may have to spare: `boot` fetches, the sidecar reads. What was
fetched lies in ``<state-dir>/etcd`` (mode 0600 in a folder of 0700, in memory, gone with the boot). A changed secret reaches a
machine with its next boot. Where there is no state directory, as on a person's own machine, or it cannot be used, the file ends
with the process: a certificate that was renewed counts there at once.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from scaler_plugin.config.secret_ref import SecretRef, SecretSource
from scaler_plugin.config.secrets import resolve

IN_AWS = (SecretSource.SSM, SecretSource.SECRETS_MANAGER)


def resolve_kept(ref: SecretRef, region: str | None = None) -> str:
    """The secret, fetched from AWS at most once a boot. Raises what :func:`~scaler_plugin.config.secrets.resolve` raises."""
    return kept_file(ref, region).read_text(encoding="utf-8") if ref.source in IN_AWS else resolve(ref, region=region)


def kept_file(ref: SecretRef, region: str | None = None) -> Path:
    """A file with the secret from AWS in it. Raises what :func:`~scaler_plugin.config.secrets.resolve` raises."""
    name = hashlib.sha256(f"{region} {ref}".encode()).hexdigest()[:20]
    state = Path(os.environ.get("SCALER_STATE_DIR") or "/run/scaler-sidecar") / "etcd"
    kept = state / name
    if _is_ours(kept):
        return kept
    value = resolve(ref, region=region)
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        _write(kept, value)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="scaler-sidecar-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        kept = folder / name
        _write(kept, value)
    return kept


def _is_ours(path: Path) -> bool:
    """A file that somebody else has put there is not believed."""
    try:
        status = path.lstat()
        return status.st_uid == os.geteuid() and status.st_mode & 0o777 == 0o600 and status.st_size > 0
    except OSError:
        return False


def _write(path: Path, value: str) -> None:
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(value)
    scratch.replace(path)
