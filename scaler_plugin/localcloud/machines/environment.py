"""What a machine's processes find in their environment: nothing of the caller's own settings but what a program needs to run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from scaler_plugin.localcloud.machines.folder import MachineFolder
from scaler_plugin.localcloud.machines.process_tree import MACHINE_MARKER

#: How the host's Python and network are set up; everything else stays outside the machine.
_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy",
)  # fmt: skip

#: Polling every second instead of five shows a demo's tasks starting sooner.
AGENT_POLL_S = 1.0


def sidecar_program() -> tuple[str, ...]:
    """``scaler-sidecar`` of this very installation."""
    script = Path(sys.executable).with_name("scaler-sidecar")
    return (sys.executable, str(script)) if script.exists() else (sys.executable, "-m", "scaler_plugin")


def machine_environment(caller: Mapping[str, str], folder: MachineFolder, cloud: Mapping[str, str]) -> dict[str, str]:
    """The environment of a machine in ``folder``. ``cloud`` says where ClearML and EC2 are, and with which keys."""
    direct = ",".join(filter(None, (caller.get("NO_PROXY"), "127.0.0.1,localhost")))
    return {
        **{name: caller[name] for name in _PASSED_ON if name in caller},
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONUNBUFFERED": "1",
        "HOME": str(folder.home),
        "TMPDIR": str(folder.temporary),
        MACHINE_MARKER: str(folder.path),
        "SCALER_STATE_DIR": str(folder.state),
        "SCALER_SHUTDOWN_COMMAND": folder.shutdown_command,
        # Tasks run in this installation's own environment: no download, a start in a second or two.
        "CLEARML_AGENT_SKIP_PIP_VENV_INSTALL": sys.executable,
        "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1",
        "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": f"{AGENT_POLL_S:g}",
        **cloud,
    }
