"""The loop that drives a sidecar: step, feed systemd's watchdog, sleep until something knocks; and an orderly end on SIGTERM."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import structlog

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.renewal import Renewal, RenewalThread
from scaler_plugin.node.assembly import assemble
from scaler_plugin.node.control import ControlSockets
from scaler_plugin.node.heartbeat import beat
from scaler_plugin.node.notify import notify
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
    leading = _ServiceThread("leading", node.leading)
    interruptions = _ServiceThread("interruptions", node.interruptions) if node.interruptions else None
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


class _Service(Protocol):
    def step(self) -> None: ...

    def seconds_to_next_step(self) -> float: ...

    def stop(self) -> None: ...


class _ServiceThread:
    """Drives a service beside the sidecar's own loop."""

    def __init__(self, name: str, service: _Service) -> None:
        self._name = name
        self._service = service
        self._wake = threading.Event()
        self._stopping = False
        # A daemon: a pass that waits for EC2 must not keep a process from ending that has resigned already.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self._service.step()
            except Exception:
                # A bug. The node must go on reporting and retiring, so it lives without this service.
                log.exception("service_crashed", service=self._name)
                self._service.stop()
                return
            self._wake.wait(self._service.seconds_to_next_step())
