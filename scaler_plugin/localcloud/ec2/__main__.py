"""The double as a process: ``python -m scaler_plugin.localcloud.ec2 --port N --state DIR``.

Prints ``READY http://HOST:PORT`` once it answers. Ends on SIGTERM and SIGINT, and with ``--until-eof`` also when its
standard input is closed, which the kernel does when the parent dies, however it dies.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from werkzeug.serving import make_server


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scaler_plugin.localcloud.ec2", description="EC2 on loopback")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--state", type=Path, required=True, help="folder that outlives this process")
    parser.add_argument("--boot-after", type=float, metavar="S", help="pending → running by itself after S seconds")
    parser.add_argument(
        "--end-after", type=float, metavar="S", help="shutting-down → terminated by itself after S seconds"
    )
    parser.add_argument("--image", action="append", default=[], metavar="AMI", help="one more image that exists")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input is closed")
    options = parser.parse_args()

    # One that comes while moto is loading must end this process too.
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    if options.until_eof:
        threading.Thread(target=_end_at_eof, daemon=True).start()

    # After the signals' handlers: loading moto takes a second.
    from scaler_plugin.localcloud.ec2.account import ACCOUNT_ID, RequestHandler  # noqa: PLC0415
    from scaler_plugin.localcloud.ec2.double import Ec2Double  # noqa: PLC0415
    from scaler_plugin.localcloud.ec2.schedules import ScheduleRunner  # noqa: PLC0415

    double = Ec2Double(
        options.state, boot_after_s=options.boot_after, end_after_s=options.end_after, images=options.image
    )
    server = make_server(options.host, options.port, double, threaded=True, request_handler=RequestHandler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    schedules = ScheduleRunner(ACCOUNT_ID, _run_instances_at(f"http://{options.host}:{server.port}"), double.now)
    schedules.start()
    print(f"READY http://{options.host}:{server.port}", flush=True)
    ended.wait()
    schedules.stop()
    server.shutdown()
    double.close()
    return 0


def _run_instances_at(url: str) -> Callable[[str, dict[str, Any]], object]:
    """RunInstances as anybody calls it, over the wire: with faults, states and journal."""

    def run_instances(region: str, parameters: dict[str, Any]) -> object:
        import boto3  # noqa: PLC0415  (only a double with a schedule needs it)

        client = boto3.client(
            "ec2",
            region_name=region,
            endpoint_url=url,
            aws_access_key_id="schedule",
            aws_secret_access_key="schedule",
        )
        return client.run_instances(**parameters)

    return run_instances


def _end_at_eof() -> None:
    # Not through sys.stdin, whose lock would still be held by this thread when the interpreter ends.
    while os.read(0, 1):
        pass
    # At once and without cleaning up: the state is safe, as after SIGKILL, and nobody is left to wait.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
