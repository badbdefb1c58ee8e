"""The sidecar's own process: ``python -m scaler_plugin.node [--verbose]``, which ``scaler-sidecar run`` turns itself into.

It stays on every instance for all its life, so it loads nothing that only a command line needs (10 MB).
"""

from __future__ import annotations

import os
import sys

# structlog loads rich where it is installed, to draw tracebacks on a terminal: 5 MB that nobody looks at here.
sys.modules["rich"] = None  # type: ignore[assignment]

from scaler_plugin.errors import ScalerError  # noqa: E402
from scaler_plugin.node.process import SETUP_VARIABLE  # noqa: E402


def main() -> None:
    """Run the sidecar until SIGTERM; the exit code is that of :mod:`scaler_plugin.errors`."""
    from scaler_plugin.coordination.codec import decode  # noqa: PLC0415
    from scaler_plugin.node.runner import run  # noqa: PLC0415
    from scaler_plugin.node.setup import NodeSetup, read_setup, state_dir  # noqa: PLC0415
    from scaler_plugin.observability.logs import configure_logs  # noqa: PLC0415

    configure_logs("--verbose" in sys.argv[1:])
    given = os.environ.pop(SETUP_VARIABLE, None)
    try:
        directory = state_dir()
        run(read_setup(directory) if given is None else decode(NodeSetup, given), directory)
    except ScalerError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
