"""What the ClearML API stand-in promises beyond the recordings: durability, faults, expiry, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from scaler_plugin.localcloud.clearml_api.credentials import Credentials
from scaler_plugin.localcloud.clearml_api.dispatch import Dispatcher, Request
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess
from scaler_plugin.localcloud.clearml_api.state import State

from ..waiting import PATIENCE_S, STARTING_S, until


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ClearmlApiProcess]:
    with ClearmlApiProcess(tmp_path / "api", faults=True) as process:
        yield process


def call(api: ClearmlApiProcess, action: str, timeout: float = PATIENCE_S, **data: Any) -> dict[str, Any]:
    keys = (api.access_key, api.secret_key)
    response = requests.post(f"{api.url}/{action}", json=data, auth=keys, timeout=timeout)
    answer: dict[str, Any] = response.json()["data"]
    assert response.ok, response.text
    return answer


def inject(api: ClearmlApiProcess, **fault: Any) -> None:
    assert requests.post(f"{api.url}/_faults", json=fault, timeout=PATIENCE_S).ok


def new_queued_task(api: ClearmlApiProcess, name: str = "task", queue: str = "work") -> str:
    task_id: str = call(api, "tasks.create", name=name, type="training")["id"]
    call(api, "tasks.enqueue", task=task_id, queue_name=queue)
    return task_id


@pytest.mark.real
def test_a_killed_server_has_lost_nothing_it_acknowledged(api: ClearmlApiProcess) -> None:
    acknowledged: list[str] = []

    def enqueue_for_ever() -> None:
        try:
            while True:
                acknowledged.append(new_queued_task(api))
        except requests.RequestException:
            return

    token = call(api, "auth.login")["token"]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(2):
            threads.submit(enqueue_for_ever)
        try:
            until(lambda: len(acknowledged) >= 50, every_s=0.01)
        finally:
            api.kill()
    url = api.url
    assert api.start() == url
    queue = call(api, "queues.get_all", name="^work$")["queues"][0]
    waiting = [entry["task"] for entry in queue["entries"]]
    assert set(acknowledged) <= set(waiting)
    assert len(waiting) == len(set(waiting))
    popped = call(api, "queues.get_next_task", queue=queue["id"])["entry"]["task"]
    assert popped == waiting[0]
    bearer = {"Authorization": f"Bearer {token}"}
    assert requests.get(f"{url}/queues.get_all", headers=bearer, timeout=PATIENCE_S).ok
    recorded = {line["task"] for line in requests.get(f"{url}/_transitions", timeout=PATIENCE_S).json()}
    assert set(acknowledged) <= recorded


@pytest.mark.real
def test_the_state_is_for_its_owner_only_and_no_key_is_in_the_command_line(
    api: ClearmlApiProcess, tmp_path: Path
) -> None:
    for path in (tmp_path / "api").glob("*.sqlite*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert api.pid is not None
    assert api.secret_key not in " ".join(psutil.Process(api.pid).cmdline())


@pytest.mark.real
def test_other_keys_than_the_configured_ones_are_refused(api: ClearmlApiProcess) -> None:
    answer = requests.get(f"{api.url}/auth.login", auth=(api.access_key, "wrong"), timeout=PATIENCE_S)
    assert answer.status_code == 401
    assert answer.json()["meta"]["result_subcode"] == 22


@pytest.mark.real
def test_a_fault_hits_the_calls_it_names_as_often_as_it_says(api: ClearmlApiProcess) -> None:
    inject(api, action="^queues\\.", status=503, subcode=7, times=2)
    keys = (api.access_key, api.secret_key)
    codes = [
        requests.post(f"{api.url}/queues.get_all", json={}, auth=keys, timeout=PATIENCE_S).status_code for _ in range(3)
    ]
    assert codes == [503, 503, 200]
    assert call(api, "server.info")["api_version"]
    journal = requests.get(f"{api.url}/_journal", timeout=PATIENCE_S).json()
    assert [line["status"] for line in journal if line["action"] == "queues.get_all"] == codes


@pytest.mark.real
def test_a_fault_after_the_effect_drops_the_answer_and_keeps_the_work(api: ClearmlApiProcess) -> None:
    task_id = new_queued_task(api)
    queue = call(api, "queues.get_all", name="work")["queues"][0]["id"]
    inject(api, action="queues.get_next_task", drop=True, after=True, times=1)
    with pytest.raises(requests.ConnectionError):
        call(api, "queues.get_next_task", queue=queue)
    assert call(api, "queues.get_num_entries", queue=queue) == {"num": 0}
    assert call(api, "tasks.get_by_id", task=task_id)["task"]["status"] == "queued"


@pytest.mark.real
def test_a_hanging_call_holds_up_no_other_and_does_its_work_only_in_the_end(api: ClearmlApiProcess) -> None:
    inject(api, action="queues.create", hang_s=60, times=1)
    with pytest.raises(requests.Timeout):
        call(api, "queues.create", timeout=0.5, name="late-queue")
    assert [queue["name"] for queue in call(api, "queues.get_all")["queues"]] == ["default"]


@pytest.mark.real
def test_a_bad_fault_is_refused_with_a_sentence(api: ClearmlApiProcess) -> None:
    for bad in ({"status": 500}, {"action": "("}, {"action": "x", "unknown": 1}, {"action": "x", "times": "two"}):
        answer = requests.post(f"{api.url}/_faults", json=bad, timeout=PATIENCE_S)
        assert answer.status_code == 400
        assert answer.json()["error"].endswith(".")
    assert requests.get(f"{api.url}/_faults", timeout=PATIENCE_S).json() == []


@pytest.mark.real
def test_without_permission_there_are_no_faults(tmp_path: Path) -> None:
    with ClearmlApiProcess(tmp_path / "plain") as plain:
        assert requests.post(f"{plain.url}/_faults", json={"action": "."}, timeout=PATIENCE_S).status_code == 404


@pytest.mark.real
def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess\n"
        "api = ClearmlApiProcess(Path(sys.argv[1])); api.start(); print(api.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    server.wait(timeout=STARTING_S)
    assert not server.is_running()


@pytest.mark.real
def test_a_stopped_server_leaves_its_state_whole_and_its_port_free(api: ClearmlApiProcess, tmp_path: Path) -> None:
    new_queued_task(api)
    api.stop()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{api.url}/debug.ping", timeout=PATIENCE_S)
    assert [path.name for path in (tmp_path / "api").glob("*.sqlite*")] == ["clearml-api.sqlite"]


class Inside:
    """The server without HTTP, with a clock that tests move."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_795_492_800.0
        self.state = State(folder / "state.sqlite")
        self.credentials = Credentials("access", "secret", self.state.token_key)
        self.dispatcher = Dispatcher(self.state, self.credentials, lambda: self.now)

    def call(self, action: str, **data: Any) -> dict[str, Any]:
        bearer = f"Bearer {self.credentials.new_token()}"
        body = json.dumps(data).encode()
        answer = self.dispatcher.answer(Request(f"/{action}", "", body, bearer))
        assert answer.status == 200, answer.body
        data = json.loads(answer.body)["data"]
        return data


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    inside = Inside(tmp_path)
    yield inside
    inside.state.close()


def test_a_dead_worker_stays_listed_with_its_task_for_exactly_600_seconds(inside: Inside) -> None:
    task = inside.call("tasks.create", name="task", type="training")["id"]
    inside.call("workers.status_report", worker="w:0", timestamp=1, task=task)
    inside.now += 599.9
    assert inside.call("workers.get_all")["workers"][0]["task"]["id"] == task
    inside.now += 0.1
    assert inside.call("workers.get_all")["workers"] == []
    assert inside.call("tasks.get_by_id", task=task)["task"]["last_worker"] == "w:0"


def test_tasks_are_found_by_every_filter(inside: Inside) -> None:
    project = inside.call("projects.create", name="project")["id"]
    tasks = [
        inside.call("tasks.create", name=f"task-{n}", type="training", project=project, tags=[f"t{n % 2}"])["id"]
        for n in range(5)
    ]
    inside.call("tasks.enqueue", task=tasks[0], queue_name="fast")
    queue = inside.call("queues.get_all", name="^fast$")["queues"][0]["id"]
    inside.call("tasks.started", task=tasks[1])
    inside.call("workers.status_report", worker="w:0", timestamp=1, task=tasks[1])
    inside.call("tasks.archive", tasks=[tasks[2]])

    def found(**data: Any) -> list[int]:
        return [tasks.index(task["id"]) for task in inside.call("tasks.get_all", **data)["tasks"]]

    assert found(status=["queued", "in_progress"]) == [0, 1]
    assert found(**{"execution.queue": [queue]}) == [0]
    assert found(last_worker=["w:0"]) == [1]
    assert found(tags=["t1"]) == [1, 3]
    assert found(tags=["-t1"]) == [0, 2, 4]
    assert found(system_tags=["-archived"]) == [0, 1, 3, 4]
    assert found(system_tags=["__$not", "archived"]) == [0, 1, 3, 4]
    assert found(project=[project], order_by=["-name"], page=1, page_size=2) == [2, 1]
    assert found(name="task-[34]") == [3, 4]
    assert found(id=[tasks[4], tasks[0]]) == [0, 4]
    assert found(_any_={"fields": ["name", "comment"], "pattern": "-2$"}) == [2]


def test_a_scroll_visits_every_task_once(inside: Inside) -> None:
    tasks = [inside.call("tasks.create", name=f"task-{n}", type="training")["id"] for n in range(7)]
    seen: list[str] = []
    answer = inside.call("tasks.get_all", size=3)
    while answer["tasks"]:
        seen += [task["id"] for task in answer["tasks"]]
        answer = inside.call("tasks.get_all", size=3, scroll_id=answer["scroll_id"])
    assert seen == tasks
