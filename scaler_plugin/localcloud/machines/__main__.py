"""``python -m scaler_plugin.localcloud.machines FOLDER``: one machine's supervisor, in the machine's environment."""

from __future__ import annotations

import argparse
from pathlib import Path

from scaler_plugin.localcloud.machines.folder import MachineFolder
from scaler_plugin.localcloud.machines.supervisor import RESTART_AFTER_S, Supervisor


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scaler_plugin.localcloud.machines", description="One local machine"
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--program", action="append", required=True, help="a word of scaler-sidecar's command line")
    parser.add_argument("--boot-delay", type=float, default=0.0, metavar="S", help="how long it stays pending")
    parser.add_argument("--standby", action="store_true", help="run only a standby sidecar")
    parser.add_argument("--restart-after", type=float, default=RESTART_AFTER_S, metavar="S")
    parser.add_argument("--steady", action="store_true", help="the pause before a restart does not grow")
    options = parser.parse_args()
    Supervisor(
        MachineFolder(options.folder),
        tuple(options.program),
        options.boot_delay,
        options.standby,
        options.restart_after,
        options.steady,
    ).live()


if __name__ == "__main__":
    main()
