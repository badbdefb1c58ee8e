"""``python -m scaler_plugin.localcloud.clearml_api``: serve until SIGTERM, SIGINT, or the end of standard input if asked.

Prints ``READY http://HOST:PORT`` once it serves, and nothing else on standard output.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from scaler_plugin.localcloud.clearml_api.credentials import Credentials
from scaler_plugin.localcloud.clearml_api.dispatch import Dispatcher
from scaler_plugin.localcloud.clearml_api.faults import Faults
from scaler_plugin.localcloud.clearml_api.server import ClearmlApiServer
from scaler_plugin.localcloud.clearml_api.state import State
from scaler_plugin.localcloud.clearml_api.watchdog import SILENT_S, Watchdog

#: The pair that is let in when the environment names none: on loopback a known default hurts nobody.
DEFAULT_KEY = "localcloud"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scaler_plugin.localcloud.clearml_api",
        description="A ClearML API server on loopback. The key pair that is let in comes from CLEARML_API_ACCESS_KEY "
        f"and CLEARML_API_SECRET_KEY in the environment (default: {DEFAULT_KEY}, {DEFAULT_KEY}).",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one (default)")
    parser.add_argument("--state", type=Path, required=True, help="the file that keeps everything")
    parser.add_argument("--faults", action="store_true", help="allow faults to be injected at /_faults")
    parser.add_argument(
        "--watchdog-silent-s",
        type=float,
        default=SILENT_S,
        help="stop running tasks that were silent for so many seconds (default: %(default)s)",
    )
    parser.add_argument("--while-stdin-open", action="store_true", help="end when standard input is closed")
    return parser.parse_args()


def main() -> int:
    """Serve until asked to end."""
    arguments = _arguments()
    try:
        state = State(arguments.state)
    except OSError as error:
        print(f"The state file {arguments.state} cannot be opened: {error.strerror}.", file=sys.stderr)
        return 1
    access_key = os.environ.get("CLEARML_API_ACCESS_KEY") or DEFAULT_KEY
    secret_key = os.environ.get("CLEARML_API_SECRET_KEY") or DEFAULT_KEY
    dispatcher = Dispatcher(state, Credentials(access_key, secret_key, state.token_key))
    try:
        faults = Faults() if arguments.faults else None
        server = ClearmlApiServer(arguments.port, dispatcher, faults, arguments.host)
    except OSError as error:
        print(f"Port {arguments.port} on {arguments.host} cannot be used: {error.strerror}.", file=sys.stderr)
        return 1
    watchdog = Watchdog(dispatcher.new_call, arguments.watchdog_silent_s)

    def end(*_: object) -> None:
        # shutdown() waits for the serving loop, which is what a signal interrupts: so never from the handler itself.
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if arguments.while_stdin_open:
        threading.Thread(target=_end_with_stdin, args=(end,), daemon=True).start()
    watchdog.start()
    print(f"READY {server.url}", flush=True)
    server.serve_forever(poll_interval=0.1)
    watchdog.end()
    server.server_close()
    # Calls under way finish; those that come later on open connections fail with the process.
    state.close()
    return 0


def _end_with_stdin(end: Callable[[], None]) -> None:
    while os.read(0, 4096):
        pass
    end()


if __name__ == "__main__":
    sys.exit(main())
