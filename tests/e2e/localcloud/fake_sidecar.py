"""Stands in for ``scaler-sidecar`` on a machine: does what it is told by files in the machine's home, and notes what it saw.

``boot`` fails until the file ``bootable`` exists if there is a file ``unbootable``, then sets up as many slots as the file
``slots`` says. ``run`` and ``agent`` write their names when SIGTERM comes.
An agent first leaves behind a process that has cut all its ties.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    home, state = Path(os.environ["HOME"]), Path(os.environ["SCALER_STATE_DIR"])
    command = sys.argv[1]
    if command == "boot":
        if (home / "unbootable").exists() and not (home / "bootable").exists():
            print("boot failed")
            return 1
        slots = home / "slots"
        (state / "node.json").write_text(json.dumps({"slots": int(slots.read_text()) if slots.exists() else 1}))
        return 0
    if command == "agent":
        subprocess.Popen(["setsid", "--fork", "sh", "-c", "trap '' TERM HUP; sleep 600; sleep 600"])

    def stop(*_: object) -> None:
        with (home / "stopped").open("a") as file:
            file.write(f"{command}\n")
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    print(command, "runs", flush=True)
    while True:
        time.sleep(60)


sys.exit(main())
