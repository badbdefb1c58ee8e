"""How the command line becomes the sidecar's process: same process id, as a service manager wants it, other program."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from scaler_plugin.coordination.codec import encode
from scaler_plugin.node.setup import NodeSetup

#: A standby's setup, which no file holds. It names where secrets are, and is none.
SETUP_VARIABLE = "SCALER_NODE_SETUP"


def become_sidecar(setup: NodeSetup | None, *, verbose: bool) -> NoReturn:
    """Replace this process; without ``setup`` the sidecar reads the machine's ``node.json``."""
    # Safe path: the directory that the command was called in is no place to import from.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    if setup is not None:
        environment[SETUP_VARIABLE] = encode(setup)
    command = [sys.executable, "-m", "scaler_plugin.node", *(["--verbose"] if verbose else [])]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606
