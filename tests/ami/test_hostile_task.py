"""What a task can plant in its slot's directory on the baked image, as the agents' user: the sidecar goes on, status names it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import wait_for
from .stage import Stage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

SLOT = "/run/scaler-sidecar/slots/0"

#: What stands in the record's place, as the shell makes it.
RECORDS = {
    "a directory": "mkdir state.json",
    "a link to itself": "ln -s state.json state.json",
    "endless zeros": "ln -s /dev/zero state.json",
    "the kernel's log, which waits for its next line": "ln -s /dev/kmsg state.json",
    "a pipe": "mkfifo state.json",
    "brackets without end": "head -c 200000 /dev/zero | tr '\\0' '[' >state.json",
    "a process id without end": 'sed \'s/"pid": [0-9]*/"pid": Infinity/\' former >state.json',
    "a time that is no number": 'sed \'s/"since": [0-9.]*/"since": NaN/\' former >state.json',
    "a task's name that clears terminals": 'sed \'s/"task_id": null/"task_id": "\\\\u001b[2J"/\' former >state.json',
    "nothing": "true",
}
GATES = {
    "a directory": "mkdir gate.lock && touch gate.lock/file",
    "a link": "ln -s ../../node.json gate.lock",
    "a pipe": "mkfifo gate.lock",
}


@pytest.fixture(scope="module")
def node(image: Path, tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Iterator[Stage]:
    stage = Stage(image, tmp_path_factory.mktemp("hostile"), f"ami-hostile-{os.getpid()}")
    try:
        stage.setting(
            "scaler-sidecar.service", "[Service]\nStandardOutput=journal+console\nStandardError=journal+console\n"
        )
        stage.push_config(idle_timeout="never")
        stage.launch()
        stage.wait_polling()
        yield stage
    finally:
        (artifacts / "console-hostile.log").write_text(stage.machine.console)
        stage.close()


def as_task(node: Stage, script: str) -> None:
    done = node.machine.try_run("sh", "-ec", f"cd {SLOT}; {script}", user="clearml")
    assert done.returncode == 0, done.stdout + done.stderr


def problems(node: Stage) -> list[str]:
    said = json.loads(node.sidecar_command("status", "--json"))["problems"]
    return [problem["what"] for problem in said if problem["about"] == node.instance_id]


def beats(node: Stage) -> str:
    return node.machine.run("cat", "/run/scaler-sidecar/heartbeat")


def sidecar_process(node: Stage) -> tuple[str, str]:
    unit = "scaler-sidecar.service"
    return node.machine.property_of(unit, "MainPID"), node.machine.property_of(unit, "NRestarts")


def assert_it_goes_on(node: Stage, before: tuple[str, str]) -> None:
    for _ in range(2):
        beat = beats(node)
        wait_for("the sidecar beats", lambda: beats(node) != beat, 20)  # noqa: B023  (asked before the next round)
    assert sidecar_process(node) == before


@pytest.mark.parametrize("script", RECORDS.values(), ids=RECORDS)
def test_what_a_task_puts_in_its_records_place_is_named_in_status_and_the_sidecar_goes_on(
    node: Stage, script: str
) -> None:
    before = sidecar_process(node)
    as_task(node, f"mv state.json former; {script}; [ ! -f state.json ] || chmod 640 state.json")
    try:
        wait_for("status names the record", lambda: any("state.json" in p or "deleted" in p for p in problems(node)))
        assert_it_goes_on(node, before)
    finally:
        as_task(node, "rm -rf state.json; mv former state.json")
    wait_for("the problem is over", lambda: problems(node) == [])


@pytest.mark.parametrize("script", GATES.values(), ids=GATES)
def test_what_a_task_puts_in_the_gates_place_is_named_in_status_and_the_sidecar_goes_on(
    node: Stage, script: str
) -> None:
    before = sidecar_process(node)
    as_task(node, f"mv gate.lock former.lock; {script}")
    try:
        wait_for("status names the gate", lambda: any("gate.lock" in p for p in problems(node)))
        assert_it_goes_on(node, before)
    finally:
        as_task(node, "rm -rf gate.lock; mv former.lock gate.lock")
    wait_for("the problem is over", lambda: problems(node) == [])


def test_a_daemon_that_holds_the_lock_is_named_and_no_pull(node: Stage) -> None:
    before = sidecar_process(node)
    as_task(node, "setsid -f flock --shared gate.lock sleep 6000 </dev/null >/dev/null 2>&1")
    wait_for("status names the holder", lambda: any("holds the lock" in p for p in problems(node)))
    assert_it_goes_on(node, before)


def test_neither_that_daemon_nor_a_gate_of_the_tasks_own_keeps_the_node_from_its_end(node: Stage) -> None:
    """The daemon of the test before lives still; another one holds the new gate, which only its owner may open."""
    as_task(node, "mv gate.lock former.lock; touch gate.lock; chmod 600 gate.lock")
    as_task(node, "setsid -f flock --exclusive gate.lock sleep 6000 </dev/null >/dev/null 2>&1")
    node.push_config(idle_timeout="3s")
    assert node.machine.wait_ended(180) == 0, node.machine.console
