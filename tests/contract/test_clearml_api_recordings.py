"""The ClearML API stand-in answers as the real server did: its recorded conversations, replayed and compared.

Compared are status code, sub-code, message, version, and the data: keys, types, order and values. Ids differ between
runs and are matched one to one, as they appear; times must be times. The clock is the recordings', so that silence and
expiry take no waiting.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from scaler_plugin.localcloud.clearml_api.answers import COMPANY_ID
from scaler_plugin.localcloud.clearml_api.credentials import Credentials
from scaler_plugin.localcloud.clearml_api.dispatch import Dispatcher
from scaler_plugin.localcloud.clearml_api.server import ClearmlApiServer
from scaler_plugin.localcloud.clearml_api.state import State
from scaler_plugin.localcloud.clearml_api.watchdog import stop_silent_tasks

from ..waiting import PATIENCE_S

RECORDINGS = Path(__file__).parents[1] / "recordings" / "clearml-api"
#: One conversation on one server, in this order.
BY_HAND = ("01_login", "02_queue_lifecycle", "03_task_lifecycle", "04_worker_lifecycle", "05_errors")
BY_HAND += ("09_queue_task_edge_cases",)
LIVE = tuple(path.stem for path in sorted(RECORDINGS.glob("0[68]_*.json")))

#: Steps that are sent but not compared, and why.
OUT_OF_SCOPE = {
    ("05_errors", 60): "the recorded server had no event store and answered no console; the stand-in answers the lines",
}
#: Live traffic that is left out, and why.
NOT_REPLAYED = {
    ("06_sdk_local_run", 20): "auth.validate_token, asked by the server's own file server with the rights of root",
}
#: What was there before live traffic began: queues, and tasks waiting in the default queue. All had the project.
QUEUES_BEFORE = {"06_agent_status_changed_and_long_ping": ["qb-exp", "qcc-exp"]}
TASKS_BEFORE = {"06_agent_daemon_full": ["qname"]}
PROJECT_BEFORE = [name for name in LIVE if name not in ("06_agent_daemon_full", "06_sdk_local_run")]
#: Seconds that passed before a step, where it matters.
PAUSES = {("04_worker_lifecycle", 24): 2.5, ("04_worker_lifecycle", 27): 3.2}

ID = re.compile(r"\b[0-9a-f]{32}\b")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00")
START = 1_795_492_800.0


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class StandIn:
    """A serving stand-in with a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.state = State(folder / "state.sqlite")
        self.credentials = Credentials("access", "secret", self.state.token_key)
        self.dispatcher = Dispatcher(self.state, self.credentials, self.clock)
        self.server = ClearmlApiServer(0, self.dispatcher, None)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.state.close()


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    server = StandIn(tmp_path)
    yield server
    server.end()


def load(scenario: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads((RECORDINGS / f"{scenario}.json").read_text())["steps"]
    return steps


class Replay:
    """Sends recorded requests and collects where the answers differ."""

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        self.session = requests.Session()
        self.ids = {COMPANY_ID: COMPANY_ID}
        self.token = stand_in.credentials.new_token()
        self.compared = 0
        self.differences: list[str] = []

    def run(self, scenario: str, steps: list[dict[str, Any]] | None = None) -> None:
        for index, step in enumerate(load(scenario) if steps is None else steps):
            if "t" in step:
                self.stand_in.clock.now = START + 10 + step["t"]
            else:
                self.stand_in.clock.now += PAUSES.get((scenario, index), 0.01)
            if (scenario, index) not in NOT_REPLAYED:
                self.step(step, f"{scenario} step {index} {step['path']}", (scenario, index) not in OUT_OF_SCOPE)

    def prepare(self, scenario: str) -> None:
        """Make what the recording takes for granted."""
        for queue in QUEUES_BEFORE.get(scenario, []):
            self.do("queues.create", name=queue)
        if scenario in PROJECT_BEFORE:
            self.do("projects.create", name="p-inline")
        for name in TASKS_BEFORE.get(scenario, []):
            script = {"binary": "python3", "entry_point": "inline.py", "working_dir": ".", "diff": "print('hi')\n"}
            task = self.do("tasks.create", name=name, type="training", script=script)["id"]
            self.do("tasks.enqueue", task=task)

    def do(self, action: str, **data: Any) -> dict[str, Any]:
        url = f"{self.stand_in.server.url}/{action}"
        answer: dict[str, Any] = requests.post(url, json=data, auth=("access", "secret"), timeout=PATIENCE_S).json()[
            "data"
        ]
        return answer

    def step(self, step: dict[str, Any], where: str, compare: bool) -> None:
        response = self.send(step)
        if not compare:
            return
        self.compared += 1
        recorded = step["response"]
        text = recorded.get("_raw_text") if isinstance(recorded, dict) else recorded
        live = {"_raw_text": response.text} if text is not None else response.json()
        if text is None:
            for key in ("id", "trx"):
                live["meta"].pop(key)
        self.differs(step["status_code"], response.status_code, f"{where}: status_code")
        self.differs(recorded, live, where)

    def send(self, step: dict[str, Any]) -> requests.Response:
        body, headers = step["request"], dict(step.get("headers", {}))
        if isinstance(body, list):
            body = "\n".join(json.dumps(item) for item in body)
        elif isinstance(body, dict):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        if body is not None:
            for identifier in ID.findall(body):
                self.ids.setdefault(identifier, identifier)
            body = ID.sub(lambda match: self.ids[match[0]], body).replace("<jwt>", self.token).encode()
        auth: tuple[str, str] | None = None
        kind = step["auth"]
        if kind in ("bearer", "Bearer"):
            headers["Authorization"] = f"Bearer {self.token}"
        elif kind in ("basic", "Basic"):
            auth = ("access", "secret")
        elif kind and kind.startswith("("):
            key, secret = re.findall(r"'([^']*)'", kind)
            auth = ("access" if key == "ACCESS_KEY" else key, secret)
        elif kind == "Bearer <jwt>":
            expired = "expired" in step["note"]
            token = self.stand_in.credentials.new_token(-10) if expired else self.token.rpartition(".")[0] + ".AAAA"
            headers["Authorization"] = f"Bearer {token}"
        elif kind:
            headers["Authorization"] = kind
        url = self.stand_in.server.url + step["path"]
        return self.session.request(step["method"], url, data=body, headers=headers, auth=auth, timeout=PATIENCE_S)

    def differs(self, recorded: Any, live: Any, where: str) -> None:
        """Note every difference below this place."""
        if isinstance(recorded, dict) and isinstance(live, dict):
            for key in recorded.keys() | live.keys():
                if key not in live:
                    self.differences.append(f"{where}.{key} is missing")
                elif key not in recorded:
                    self.differences.append(f"{where}.{key} is too much: {live[key]!r}")
                else:
                    self.differs(recorded[key], live[key], f"{where}.{key}")
        elif isinstance(recorded, list) and isinstance(live, list) and len(recorded) == len(live):
            if where.endswith(".workers"):  # the real server lists workers in no order
                recorded, live = (sorted(items, key=lambda item: str(item.get("id"))) for items in (recorded, live))
            for index, (old, new) in enumerate(zip(recorded, live, strict=True)):
                self.differs(old, new, f"{where}[{index}]")
        elif isinstance(recorded, str) and isinstance(live, str):
            if not self._same_text(recorded, live):
                self.differences.append(f"{where}: {live!r} instead of {recorded!r}")
        elif type(recorded) is not type(live) or recorded != live:
            self.differences.append(f"{where}: {live!r} instead of {recorded!r}")

    def _same_text(self, recorded: str, live: str) -> bool:
        if ID.fullmatch(recorded):
            if recorded not in self.ids and ID.fullmatch(live) and live not in self.ids.values():
                self.ids[recorded] = live
            return self.ids.get(recorded) == live
        if TIME.fullmatch(recorded):
            return TIME.fullmatch(live) is not None
        if recorded == "<jwt>":
            return live.count(".") == 2
        expected = ID.sub(lambda match: self.ids.get(match[0], match[0]), recorded)
        start, shortened, _ = expected.partition(" \u2026 (shortened)")
        return live.startswith(start) if shortened else live == expected


def test_conversations_recorded_by_hand_get_the_same_answers(stand_in: StandIn) -> None:
    replay = Replay(stand_in)
    for scenario in BY_HAND:
        replay.run(scenario)
    total = sum(len(load(scenario)) for scenario in BY_HAND)
    print(f"{replay.compared} of {total} steps compared")
    assert replay.differences == []
    assert replay.compared == total - len(OUT_OF_SCOPE)


def tamper(step: dict[str, Any], how: str) -> None:
    response = step["response"]
    task = response["data"]["tasks"][0]
    if how == "status code":
        step["status_code"] = 202
    elif how == "sub-code":
        response["meta"]["result_subcode"] = 7
    elif how == "state":
        task["status"] = "stopped"
    elif how == "missing key":
        task["comment"] = "recorded but not answered"
    elif how == "additional key":
        del task["name"]
    elif how == "type":
        task["last_iteration"] = "0"
    elif how == "id":
        task["id"] = COMPANY_ID
    elif how == "time":
        task["last_update"] = "yesterday"
    else:
        response["data"]["tasks"] = []


TAMPERINGS = ["status code", "sub-code", "state", "missing key", "additional key", "type", "id", "time", "length"]


@pytest.mark.parametrize("how", TAMPERINGS)
def test_the_comparison_reports_a_recording_that_was_tampered_with(stand_in: StandIn, how: str) -> None:
    steps = load("03_task_lifecycle")[:7]
    tamper(steps[6], how)
    replay = Replay(stand_in)
    replay.run("03_task_lifecycle", steps)
    assert len(replay.differences) == 1
    assert replay.differences[0].startswith("03_task_lifecycle step 6 ")


@pytest.mark.parametrize("scenario", LIVE)
def test_recorded_traffic_of_agent_and_sdk_gets_the_same_answers(stand_in: StandIn, scenario: str) -> None:
    replay = Replay(stand_in)
    replay.prepare(scenario)
    replay.run(scenario)
    print(f"{replay.compared} steps compared")
    assert replay.differences == []


def test_the_watchdog_stops_a_silent_task_and_leaves_queued_ones(stand_in: StandIn) -> None:
    steps = load("07_watchdog_expt")
    replay = Replay(stand_in)
    replay.run("07_watchdog_expt", steps[:9])
    stand_in.clock.now += 14
    call = stand_in.dispatcher.new_call("watchdog")
    with stand_in.state.transaction():
        stopped = stop_silent_tasks(call, 12)
    replay.run("07_watchdog_expt", steps[9:])
    assert len(stopped) == 1
    assert replay.differences == []
