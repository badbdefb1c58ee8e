"""EC2 as a WSGI application: each call meets the faults in force, then the account, then the journal.

What it guarantees: calls take effect one after the other; a change is written down before its answer is sent; after a restart
with the same state directory every instance, tag, token and id is the same.
What it does not: faults and the machines themselves do not outlive the process.
"""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, RLock
from typing import Any

from scaler_plugin.localcloud.ec2 import run_instances
from scaler_plugin.localcloud.ec2.account import Account
from scaler_plugin.localcloud.ec2.calls import Answer, Call, error, result
from scaler_plugin.localcloud.ec2.control import Control
from scaler_plugin.localcloud.ec2.faults import Fault, Faults, Kind
from scaler_plugin.localcloud.ec2.ledger import Changes, Journal

#: EC2 keeps the last 64 kB of a console.
CONSOLE_LIMIT = 64 * 1024

#: Families without the Nitro hypervisor: their latest console output cannot be asked for.
XEN_FAMILIES = (
    "t1",
    "t2",
    "m1",
    "m2",
    "m3",
    "m4",
    "c1",
    "c3",
    "c4",
    "r3",
    "r4",
    "i2",
    "i3",
    "d2",
    "g2",
    "g3",
    "p2",
    "p3",
    "x1",
)


class Ec2Double:
    """``boot_after_s`` and ``end_after_s`` move instances out of ``pending`` and ``shutting-down`` by themselves; with
    ``None`` only the machine layer does."""

    def __init__(
        self,
        state_dir: Path,
        boot_after_s: float | None = None,
        end_after_s: float | None = None,
        clock: Callable[[], float] = time.time,
        images: Sequence[str] = (),
    ) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._consoles = state_dir / "consoles"
        self._consoles.mkdir(mode=0o700, exist_ok=True)
        self._changes = Changes(state_dir / "changes.jsonl")
        self.journal = Journal(state_dir / "calls.jsonl")
        self.faults = Faults()
        self.account = Account(self._changes.seed, images)
        self._clock = clock
        self._delays = {
            state: (following, delay)
            for state, following, delay in (
                ("pending", "running", boot_after_s),
                ("shutting-down", "terminated", end_after_s),
                ("stopping", "stopped", end_after_s),
            )
            if delay is not None
        }
        self._tokens: dict[tuple[str, str], run_instances.TokenUse] = {}
        self._count = 0
        self._lock = RLock()
        self._closing = Event()
        self._control = Control(self)
        self._repeat_past_changes()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "").startswith("/_"):
            answer: Answer | None = self._control.answer(environ)
        else:
            answer = self._answer(Call.from_environ(environ), environ.get("REMOTE_ADDR", ""))
        if answer is None:
            # The server then fails to write its headers and gives the connection up, as seen from a client a cut line.
            with suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            answer = Answer(500, b"")
        start_response(f"{answer.status} status", [*answer.headers, ("Content-Length", str(len(answer.body)))])
        return [answer.body]

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            self._changes.close()
            self.journal.close()

    def now(self) -> float:
        return self._clock()

    def instances(self) -> list[Any]:
        """moto's instances, brought up to date."""
        with self._lock:
            self._advance(self._clock())
            return self.account.instances()

    def move(self, instance_id: str, state: str, code: str = "", reason: str = "") -> bool:
        """Move an instance into a state and write that down. False if there is no such instance, or it is terminated."""
        with self._lock:
            now = self._clock()
            self._advance(now)
            instance = self.account.instance(instance_id)
            if instance is None or (instance.state == "terminated" and state != "terminated"):
                return False
            if instance.state != state:
                self.account.set_state(instance, state, now, code, reason)
                move = {"id": instance_id, "state": state, "code": code, "reason": reason}
                self._changes.append({"at": now, "move": move})
            return True

    def write_console(self, instance_id: str, text: bytes) -> None:
        (self._consoles / instance_id).write_bytes(text[-CONSOLE_LIMIT:])

    def _answer(self, call: Call, address: str) -> Answer | None:
        """The answer, or ``None`` for a connection that is to be cut."""
        fault = self.faults.take(call.action, self._traits(call), self._clock())
        answer: Answer | None = None
        if fault is not None and fault.kind in (Kind.ERROR, Kind.THROTTLE):
            answer = fault.answer
        elif fault is None or fault.kind is not Kind.HANG:
            with self._lock:
                answer = self._perform(call, fault, self._clock())
        self._note(call, address, answer, fault)
        if fault is not None and fault.kind in (Kind.HANG, Kind.DROP_AFTER):
            self._closing.wait(fault.hang_s)
            return None
        return answer

    def _perform(self, call: Call, fault: Fault | None, now: float) -> Answer:
        self._advance(now)
        if call.action == "GetConsoleOutput":
            return self._console_output(call)
        if call.reads_only:
            if fault is not None and fault.kind is Kind.STALE:
                with self.account.as_of(now - fault.lag_s):
                    return self.account.perform(call, -1, now)
            return self.account.perform(call, -1, now)
        available = fault.available if fault is not None and fault.kind is Kind.NO_CAPACITY else None
        answer = self._change(call, now, available)
        if answer.ok:
            self._changes.append({"at": now, "n": self._count, "call": call.to_json(), "available": available})
        return answer

    def _change(self, call: Call, now: float, available: int | None) -> Answer:
        self._count += 1
        if call.action == "RunInstances" and call.params.get("DryRun") != "true":
            return self._run_instances(call, now, available)
        return self.account.perform(call, self._count, now)

    def _run_instances(self, call: Call, now: float, available: int | None) -> Answer:
        token = (call.region, call.params.get("ClientToken", ""))
        if mistake := run_instances.mistake_in(call, self.account.key_names(call.region)):
            return mistake
        if use := self._tokens.get(token):
            return self._repeated(call, use)
        count = run_instances.count_to_start(call, available)
        if not count:
            return run_instances.no_capacity(call, self._zone(call))
        started = self.account.perform(call.with_params(MinCount=str(count)), self._count, now)
        if started.error_code == "NoSuchEntity":
            profile = call.params.get("IamInstanceProfile.Name") or call.params.get("IamInstanceProfile.Arn")
            text = f"Value ({profile}) for parameter iamInstanceProfile is invalid. Invalid IAM Instance Profile"
            return error("InvalidParameterValue", text)
        if started.ok and token[1]:
            self._tokens[token] = run_instances.TokenUse(run_instances.parameters_of(call), started)
        return started

    def _repeated(self, call: Call, use: run_instances.TokenUse) -> Answer:
        if run_instances.parameters_of(call) != use.params:
            text = "The request uses the same client token as a previous, but non-identical request"
            return error("IdempotentParameterMismatch", text)
        instances = [self.account.instance(instance_id) for instance_id in use.answer.instance_ids]
        if all(i is not None and i.state == "terminated" for i in instances):
            text = "The request uses the same client token as a previous request whose instances have been terminated"
            return error("IdempotentInstanceTerminated", text)
        return use.answer

    def _console_output(self, call: Call) -> Answer:
        instance_id = call.params.get("InstanceId", "")
        instance = self.account.instance(instance_id)
        if instance is None:
            return error("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
        family = instance.instance_type.partition(".")[0]
        if call.params.get("Latest") == "true" and family in XEN_FAMILIES:
            text = "This instance type does not support retrieving the latest console logs"
            return error("UnsupportedOperation", text)
        path = self._consoles / instance_id
        text = base64.b64encode(path.read_bytes() if path.exists() else b"").decode()
        return result("GetConsoleOutput", (("instanceId", instance_id), ("output", text)))

    def _traits(self, call: Call) -> dict[str, str]:
        """What a fault may be matched with: the parameters, and for a launch the zone and the market."""
        if call.action != "RunInstances":
            return call.params
        market = call.params.get("InstanceMarketOptions.MarketType", "on-demand")
        return {**call.params, "zone": self._zone(call), "market": market}

    def _zone(self, call: Call) -> str:
        with self._lock:
            zone = self.account.zone_of_subnet(call.region, call.params.get("SubnetId", ""))
        return zone or call.params.get("Placement.AvailabilityZone") or f"{call.region}a"

    def _advance(self, now: float) -> None:
        """Make the transitions that are due by themselves, each at the moment it was due."""
        for instance in self.account.instances() if self._delays else ():
            while (step := self._delays.get(instance.state)) and self.account.since(instance) + step[1] <= now:
                self.account.set_state(instance, step[0], self.account.since(instance) + step[1])

    def _repeat_past_changes(self) -> None:
        for record in self._changes.past():
            self._advance(record["at"])
            if "move" in record:
                move = record["move"]
                if instance := self.account.instance(move["id"]):
                    self.account.set_state(instance, move["state"], record["at"], move["code"], move["reason"])
            else:
                # Failed calls draw numbers too but are not written down.
                self._count = record["n"] - 1
                self._change(Call.from_json(record["call"]), record["at"], record["available"])

    def _note(self, call: Call, address: str, answer: Answer | None, fault: Fault | None) -> None:
        parameters = {k: v for k, v in call.params.items() if k not in ("Action", "Version")}
        entry = {
            "time": self._clock(),
            "action": call.action,
            "address": address,
            "region": call.region,
            "parameters": parameters,
            "status": answer.status if answer else None,
            "error": answer.error_code if answer else None,
            "instance_ids": answer.instance_ids if answer and not call.reads_only else [],
            "fault": fault.kind.value if fault else None,
        }
        with self._lock:
            self.journal.append(entry)
