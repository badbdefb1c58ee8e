"""Tasks whose runs are seen from outside: they write a line five times a second into a ledger that outlives every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from scaler_plugin.localcloud.machines.process_tree import MACHINE_MARKER

from .record import TIMEOUT_S

#: ``seconds`` of work, or less once the file ``release`` is there; ``checkpoint`` is a folder in which a task that is asked
#: to saves what it has done so far.
SCRIPT = """\
import json, os, pathlib, time

ledger, checkpoint, seconds, release = {ledger!r}, {checkpoint!r}, {seconds!r}, {release!r}
task = os.environ["CLEARML_TASK_ID"]
node = pathlib.Path(os.environ["{marker}"]).name
run = "%d-%s" % (os.getpid(), time.time())


def tell(what):
    seen = {{"task": task, "run": run, "node": node, "at": time.time(), "what": what, "done": done}}
    line = json.dumps(seen) + "\\n"
    file = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)


saved = pathlib.Path(checkpoint) / (task + ".saved")
wanted = pathlib.Path(checkpoint) / (task + ".wanted")
done = float(saved.read_text()) if checkpoint and saved.exists() else 0.0
tell("begin")
while done < seconds and not (release and os.path.exists(release)):
    time.sleep(0.2)
    done += 0.2
    tell("beat")
    if checkpoint and wanted.exists():
        saved.write_text(str(done))
        wanted.unlink()
tell("end")
print("worked through", flush=True)
"""


class Clearml:
    """The ClearML stand-in as a user of it, and as the one who makes it fail."""

    def __init__(self, url: str, auth: tuple[str, str]) -> None:
        self.url = url
        self.auth = auth

    def call(self, endpoint: str, **request: Any) -> dict[str, Any]:
        answer = requests.post(f"{self.url}/{endpoint}", json=request, auth=self.auth, timeout=TIMEOUT_S)
        assert answer.ok, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def enqueue(
        self, queue: str, seconds: float, ledger: Path, checkpoint: Path | None = None, release: Path | None = None
    ) -> str:
        diff = SCRIPT.format(
            ledger=str(ledger),
            checkpoint=str(checkpoint or ""),
            release=str(release or ""),
            seconds=seconds,
            marker=MACHINE_MARKER,
        )
        script = {"binary": "python3", "repository": "", "entry_point": "work.py", "working_dir": ".", "diff": diff}
        task: str = self.call("tasks.create", name=f"{seconds:g} s of work", type="testing", script=script)["id"]
        self.call("tasks.enqueue", task=task, queue_name=queue)
        return task

    def statuses(self, tasks: list[str]) -> dict[str, str]:
        found = self.call("tasks.get_all", id=tasks, only_fields=["id", "status"])["tasks"]
        return {task["id"]: task["status"] for task in found}

    def fail(self, **fault: Any) -> None:
        """Inject a fault (``localcloud.clearml_api.faults``)."""
        requests.post(f"{self.url}/_faults", json=fault, timeout=TIMEOUT_S).raise_for_status()

    def recover(self) -> None:
        requests.delete(f"{self.url}/_faults", timeout=TIMEOUT_S).raise_for_status()
