"""The loop that drives a sidecar: step, feed systemd's watchdog, sleep until something knocks; and an orderly end on SIGTERM."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.renewal import Renewal, RenewalThread
from scaler_plugin.node.assembly import assemble
from scaler_plugin.node.control import ControlSockets
from scaler_plugin.node.heartbeat import beat
from scaler_plugin.node.notify import notify
from scaler_plugin.node.service_thread import ServiceThread
from scaler_plugin.node.setup import NodeSetup
from scaler_plugin.sidecar.service import STEP_S

log = structlog.get_logger(__name__)


def run(setup: NodeSetup, directory: Path) -> None:
    """Run the sidecar of this machine until SIGTERM or SIGINT."""
    node = assemble(setup, directory)
    sidecar = node.sidecar

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request.get("ask") != "report":
            return {"error": "The sidecar only knows the question `report`; is the command of another version?"}
        report: dict[str, Any] = json.loads(encode(sidecar.report))
        return report

    sockets = ControlSockets(directory, answer)
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        sockets.wake()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    renewal = RenewalThread(
        [
            Renewal("leadership", node.election.renew, node.election.renew_every_s),
            Renewal("registration", node.registry.renew, node.registry.renew_every_s),
        ]
    )
    leading = ServiceThread("leading", node.leading, node.tell_crash, node.leading.recover)
    interruptions = (
        ServiceThread("interruptions", node.interruptions, node.tell_crash) if node.interruptions is not None else None
    )
    watch = node.election.watch(leading.wake)
    log.info("sidecar_starts", instance=setup.identity.instance_id, cluster=setup.identity.cluster)
    try:
        renewal.start()
        leading.start()
        if interruptions is not None:
            interruptions.start()
        ready = False
        while not stopping:
            sidecar.step()
            if not ready:
                notify("READY=1")
                ready = True
                leading.wake()
            notify("WATCHDOG=1")
            beat(directory)
            sockets.sleep(STEP_S)
    finally:
        notify("STOPPING=1")
        watch.cancel()
        sidecar.stop()
        leading.stop()
        if interruptions is not None:
            interruptions.stop()
        renewal.stop()
        sockets.close()
        node.store.close()
        log.info("sidecar_stopped", instance=setup.identity.instance_id)
