"""A pool's own scripts on the booted image: what the guides show works there, and none of them outlives what it is for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler_plugin.cloud.metadata import InstanceFacts, ScheduledEvent
from scaler_plugin.localcloud.imds import ImdsServer

from ..unit.node.hook_cases import CASES, NASTY, RUN_AS_UNITS
from .baking import PROJECT
from .machine import wait_for
from .stage import POOL, Stage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

MOUNT_SCRATCH = "mkdir -p /scratch && mount -t tmpfs tmpfs /scratch\n"

#: Passes at the health gate, before there is a sidecar, and tells what it is while the sidecar runs it.
TELL = """test -e /run/scaler-sidecar/heartbeat || exit 0
cd /scratch
env >environment; grep -E 'CapEff|NoNewPrivs|Uid' /proc/self/status >status; pwd >/tmp/seen-by-all; readlink /proc/$$/fd/0 >input
tr '\\0' ' ' </proc/$$/cmdline >arguments; cat /proc/self/cgroup >group; touch told
"""

SAVE = 'echo "$SCALER_TASK_ID $PWD $(id -u)" >/scratch/saved.new && mv /scratch/saved.new /scratch/saved\necho saved\n'


class Maintained(ImdsServer):
    """A metadata service that announces, when a test says so, that EC2 stops the instance."""

    announced: ScheduledEvent | None = None

    def _facts(self) -> InstanceFacts:
        facts = super()._facts()
        return replace(facts, scheduled_events=(Maintained.announced,)) if Maintained.announced else facts


class MaintainedStage(Stage):
    metadata_server = Maintained


def example_of_the_guide() -> list[dict[str, Any]]:
    text = (PROJECT / "docs/health.md").read_text().partition("## Checks of your own")[2]
    (pool,) = yaml.safe_load(text.partition("```yaml")[2].partition("```")[0])["pools"]
    return [{**check, "every": "5s"} for check in pool["checks"]]


def pool(*checks: dict[str, Any]) -> dict[str, Any]:
    own = [*example_of_the_guide(), {"name": "tell", "script": TELL, "every": "5s"}, *checks]
    return {"idle_timeout": "never", "init_script": MOUNT_SCRATCH, "on_interruption": SAVE, "checks": own}


@pytest.fixture(scope="module")
def node(image: Path, tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Iterator[Stage]:
    """The tests of this file share it, in their order: the last one ends it."""
    stage = MaintainedStage(image, tmp_path_factory.mktemp("checks"), f"ami-chk-{os.getpid()}")
    stage.file("/opt/checks/nfs.sh", "#!/bin/sh\nexit 0\n", 0o755)
    try:
        stage.push_config(**pool())
        stage.launch()
        stage.wait_polling()
        yield stage
    finally:
        (artifacts / "console-checks.log").write_text(stage.machine.console)
        stage.close()


def reason(node: Stage) -> str:
    """What `status` has to say of the node."""
    nodes = json.loads(node.sidecar_command("status", "--json"))["nodes"]
    return " ".join(json.dumps(each) for each in nodes if node.instance_id in json.dumps(each))


def units(node: Stage) -> list[str]:
    said = node.machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "scaler-script-*")
    return [line.split()[0] for line in said.splitlines()]


def processes(node: Stage, command: str) -> list[str]:
    return node.machine.try_run("pgrep", "-xf", command).stdout.split()


def folders(node: Stage) -> list[str]:
    return node.machine.try_run("ls", "/run/scaler-sidecar/scripts").stdout.split()


def busy(node: Stage, seconds: int) -> str:
    """A task keeps a node that is not fit from ending itself."""
    task = node.enqueue(f"import time\ntime.sleep({seconds})\n")
    wait_for("the task runs", lambda: node.task_status(task) == "in_progress", 60)
    return task


def exists(node: Stage, path: str) -> bool:
    return node.machine.try_run("test", "-e", path).returncode == 0


def test_the_guides_example_finds_the_node_fit_while_its_sidecar_runs(node: Stage) -> None:
    node.machine.run("rm", "-f", "/scratch/.alive")  # the gate's run was before
    wait_for("the check has touched its file", lambda: exists(node, "/scratch/.alive"))
    assert "Unfit" not in reason(node)


def test_a_check_is_root_outside_of_the_sidecars_sandbox(node: Stage) -> None:
    wait_for("the check has told", lambda: exists(node, "/scratch/told"))
    status = node.machine.run("cat", "/scratch/status")
    rights = node.machine.run("grep", "CapEff", "/proc/1/status").split()[1]
    assert "Uid:\t0\t0\t0\t0" in status
    assert rights in status
    assert "NoNewPrivs:\t0" in status
    assert node.machine.run("cat", "/tmp/seen-by-all").strip() == "/scratch"
    assert "/system.slice/scaler-script-" in node.machine.run("cat", "/scratch/group")


def test_a_check_is_told_what_the_guide_says_and_nothing_of_the_sidecars(node: Stage) -> None:
    environment = dict(line.split("=", 1) for line in node.machine.run("cat", "/scratch/environment").splitlines())
    told = {name: value for name, value in environment.items() if name.startswith("SCALER_")}
    assert told == {"SCALER_INSTANCE_ID": node.instance_id, "SCALER_INSTANCE_TYPE": "c5.large", "SCALER_POOL": POOL}
    assert environment["HOME"] == "/root"
    assert not [name for name in environment if name.startswith(("AWS_", "CLEARML_", "NOTIFY", "WATCHDOG"))]
    assert node.machine.run("cat", "/scratch/input").strip() == "/dev/null"
    assert "heartbeat" not in node.machine.run("cat", "/scratch/arguments")


def test_a_failing_checks_code_and_last_words_are_the_reason_until_it_is_gone(node: Stage) -> None:
    task = busy(node, 15)
    node.push_config(
        **pool({"name": "bad", "script": "echo first; echo 'the disk is lost' >&2; exit 7", "every": "5s"})
    )
    wait_for("the reason shows", lambda: "ended with exit code 7: the disk is lost" in reason(node))
    node.push_config(**pool())
    wait_for("the node serves on", lambda: "Unfit" not in reason(node))
    wait_for("the task has ended", lambda: node.task_status(task) == "completed", 60)


def test_a_check_that_hangs_is_ended_with_all_that_it_started(node: Stage) -> None:
    task = busy(node, 25)
    hangs = "trap '' TERM; setsid sleep 4242 & sleep 4242; wait"
    node.push_config(**pool({"name": "hangs", "script": hangs, "every": "10m", "timeout": "3s"}))
    wait_for("it runs", lambda: len(processes(node, "sleep 4242")) == 2)
    # The order of a shutdown is the reverse: the sidecar does not live to see its script killed and call the machine unfit.
    assert "scaler-sidecar.service" in node.machine.property_of(units(node)[0], "Before")
    mode = node.machine.run("stat", "--format=%a %U", "/run/scaler-sidecar/scripts").strip()
    assert mode == "700 root"
    for command in ("ls /run/scaler-sidecar/scripts", f"systemctl stop {units(node)[0]}", "systemd-run true"):
        assert node.machine.try_run("sh", "-c", command, user="clearml").returncode != 0, command
    wait_for("the reason shows", lambda: "did not end within its timeout" in reason(node))
    wait_for("nothing of it lives", lambda: not processes(node, "sleep 4242"), 10)
    node.push_config(**pool())
    wait_for("the node serves on", lambda: "Unfit" not in reason(node))
    wait_for("the task has ended", lambda: node.task_status(task) == "completed", 60)


@pytest.mark.parametrize("how", ["kill", "restart"])
def test_a_script_ends_with_its_sidecar_and_leaves_nothing(node: Stage, how: str) -> None:
    machine = node.machine
    slow = {
        "name": how,
        "script": f"test -e /scratch/{how} && exit; touch /scratch/{how}; sleep 4343",
        "timeout": "10m",
    }
    node.push_config(**pool(slow))
    wait_for("it runs", lambda: processes(node, "sleep 4343"))
    before = machine.property_of("scaler-sidecar.service", "MainPID")
    kept = folders(node)
    if how == "kill":
        machine.run("kill", "-9", before)
    else:
        machine.run("systemctl", "restart", "scaler-sidecar.service")
    wait_for("it has ended", lambda: not processes(node, "sleep 4343"))
    wait_for(
        "another sidecar is ready",
        lambda: (
            machine.property_of("scaler-sidecar.service", "MainPID") not in (before, "0")
            and machine.property_of("scaler-sidecar.service", "ActiveState") == "active"
        ),
    )
    node.push_config(**pool())
    wait_for("its folder is gone", lambda: not set(kept) & set(folders(node)))
    wait_for("no unit is left", lambda: not units(node))
    assert "Unfit" not in reason(node)


def test_the_real_systemd_tells_of_each_end_what_the_unit_tests_stand_in_does(node: Stage) -> None:
    asked = json.dumps([(case.script, NASTY) for case in CASES])
    python = "/opt/scaler-sidecar/venv/bin/python"
    told = json.loads(node.machine.run(python, "-c", RUN_AS_UNITS, "/run/scaler-sidecar/cases", asked))
    assert {case.name: end for case, end in zip(CASES, told, strict=True)} == {
        case.name: [case.exit_code, case.output] for case in CASES
    }
    assert not processes(node, "sleep 5151")


def test_no_script_leaves_a_failed_unit_behind(node: Stage) -> None:
    assert "scaler-script" not in node.machine.run("systemctl", "--failed", "--plain", "--no-legend")


def test_the_hook_of_an_interruption_writes_where_root_may(node: Stage) -> None:
    task = busy(node, 600)
    Maintained.announced = ScheduledEvent("e1", "instance-stop", "active", time.time() + 240)
    try:
        wait_for("the hook has saved", lambda: exists(node, "/scratch/saved"), 60)
        assert node.machine.run("cat", "/scratch/saved").strip() == f"{task} / 0"
        told = ("journalctl", "--no-pager", "-o", "cat", "-u", "scaler-sidecar.service")
        wait_for("its end is known", lambda: '"hook_ended"' in node.machine.run(*told))
        wait_for("the task is put back", lambda: node.task_status(task) == "queued", 60)
        node.machine.wait_ended(120)
    finally:
        Maintained.announced = None
