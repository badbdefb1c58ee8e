"""``scaler-sidecar demo`` as a user or a program calls it: the whole main job, on real processes."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ...waiting import STARTING_S

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

#: For the whole of a demo.
DEMO_S = 300.0

Command = Callable[..., "subprocess.Popen[str]"]


def test_three_tasks_in_two_queues_complete_and_nothing_is_left(
    command: Command, folder: Path, left_of: Callable[[Path], list[str]]
) -> None:
    demo = command("demo", "--json", "--task-seconds", "2", "--idle-timeout", "4s", "--boot-delay", "1s")
    out, err = demo.communicate(timeout=DEMO_S)

    assert demo.returncode == 0, err
    report = json.loads(out)  # fails if anything but one object was printed
    assert out.count("\n") == 1
    assert report["ok"] is True
    assert (report["tasks_completed"], report["tasks_lost"]) == (3, 0)
    assert (report["instances_launched"], report["instances_left"]) == (3, 0)
    assert {task["queue"] for task in report["tasks"]} == {"demo-cpu", "demo-gpu"}
    assert {task["node"] for task in report["tasks"]} == {instance["id"] for instance in report["instances"]}
    for task in report["tasks"]:
        assert set(task) == {"id", "queue", "status", "wait_s", "run_s", "node"}
        assert task["status"] == "completed"
        assert task["wait_s"] > 0
        assert task["run_s"] >= 2
    for instance in report["instances"]:
        assert set(instance) == {"id", "pool", "launched_s", "ended_s", "ended_by"}
        assert instance["ended_by"] == "guest"
        assert instance["launched_s"] < instance["ended_s"]
    assert sorted(instance["pool"] for instance in report["instances"]) == ["cpu", "cpu", "gpu"]
    for leader in report["leaders"]:
        assert set(leader) == {"node", "term", "from_s", "to_s"}
    assert left_of(folder) == []
    assert list(folder.iterdir()) == []


def test_another_node_leads_after_the_leader_was_killed(
    command: Command, folder: Path, left_of: Callable[[Path], list[str]]
) -> None:
    demo = command("demo", "--json", "--kill-leader", "--task-seconds", "10", "--idle-timeout", "8s")
    out, err = demo.communicate(timeout=DEMO_S)

    assert demo.returncode == 0, err
    report = json.loads(out)
    assert report["tasks_completed"] == 3
    assert len(report["leaders"]) >= 2
    first, second = report["leaders"][:2]
    assert first["node"] != second["node"]
    assert [leader["term"] for leader in report["leaders"]] == sorted({leader["term"] for leader in report["leaders"]})
    assert "SIGKILL for the leader's sidecar" in err
    assert left_of(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("starting etcd", signal.SIGTERM),
        ("waits in", signal.SIGINT),
        ("boots", signal.SIGTERM),
        ("runs on", signal.SIGINT),
    ],
)
def test_an_interrupted_demo_leaves_nothing(
    moment: str, number: int, command: Command, folder: Path, left_of: Callable[[Path], list[str]]
) -> None:
    demo = command("demo", "--json", "--boot-delay", "0")
    assert demo.stderr is not None
    for line in demo.stderr:
        if moment in line:
            break
    demo.send_signal(number)
    out, _ = demo.communicate(timeout=STARTING_S)

    assert demo.returncode == 128 + number
    assert out == "" or json.loads(out)["ok"] is False
    assert left_of(folder) == []
    assert list(folder.iterdir()) == []


def test_a_killed_demo_leaves_no_process_and_the_next_cloud_removes_its_files(
    command: Command, folder: Path, left_of: Callable[[Path], list[str]], wait: Callable[..., None]
) -> None:
    demo = command("demo", "--json", "--boot-delay", "0")
    assert demo.stderr is not None
    for line in demo.stderr:
        if "runs on" in line:
            break
    assert left_of(folder) != []
    demo.kill()

    wait(lambda: left_of(folder) == [])
    assert len(list(folder.iterdir())) == 1
    successor = command("localcloud", "up")
    assert successor.stdout is not None
    assert any(line == "READY\n" for line in successor.stdout)
    assert len(list(folder.iterdir())) == 1, "the folder of the killed one is removed by whoever comes next"
    successor.terminate()
    assert successor.wait(STARTING_S) == 0
    assert list(folder.iterdir()) == []


def test_keep_leaves_the_logs_and_says_where(command: Command, folder: Path) -> None:
    demo = command("demo", "--tasks", "1", "--task-seconds", "1", "--idle-timeout", "2s", "--boot-delay", "0", "--keep")
    out, err = demo.communicate(timeout=DEMO_S)

    assert demo.returncode == 0, out + err
    kept = Path(out.strip().splitlines()[-1].removeprefix("Kept: "))
    assert kept.parent == folder
    consoles = list(kept.glob("machines/*/console.log"))
    assert len(consoles) == 1
    assert "second 1 of 1" in consoles[0].read_text()


def test_wrong_options_are_sentences(command: Command) -> None:
    demo = command("demo", "--idle-timeout", "10")
    out, err = demo.communicate(timeout=STARTING_S)

    assert demo.returncode == 2
    assert out == ""
    assert err.startswith("--idle-timeout 10: give a duration with its unit")
    assert "Traceback" not in err
