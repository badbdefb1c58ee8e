"""The folder in which a local cloud keeps its files, and the end of those whose cloud was killed before it could tidy up."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from scaler_plugin.agent.processes import ProcessKey, lives, this_process

PREFIX = "scaler-local-"
#: A Unix socket's path has at most 107 characters, and those on the machines lie 60 below the temporary folder.
LONGEST_BASE = 40
#: Beside it: the process whose folder it is. A folder that is kept has none.
_OWNER = "owner.json"


def make_scratch(keep: bool) -> Path:
    """A new folder for this process; those of dead ones are removed."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > LONGEST_BASE:
        base = Path("/tmp")  # noqa: S108
    for folder in base.glob(f"{PREFIX}*"):
        if _abandoned(folder):
            remove_scratch(folder)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    if not keep:
        (folder / _OWNER).write_text(json.dumps(asdict(this_process())))
    return folder


def remove_scratch(folder: Path) -> None:
    """Delete the folder with all in it. Never raises."""
    # Something that was just killed may still have been writing.
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _abandoned(folder: Path) -> bool:
    with suppress(OSError, ValueError, TypeError):
        return not lives(ProcessKey(**json.loads((folder / _OWNER).read_text())))
    return False
