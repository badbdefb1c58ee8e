"""Outputs as people see them: on a terminal of some width, in a pipe, in the reference page."""

from __future__ import annotations

import io
import os
import pty
import struct
import subprocess
import sys
import termios
from datetime import datetime, timezone
from fcntl import ioctl
from pathlib import Path

import pytest
from rich.console import Console

from scaler_plugin.cli.etcd import _print_table
from scaler_plugin.cli.reference import reference
from scaler_plugin.cli.wrapping import fitted
from scaler_plugin.etcd_care.health import EtcdHealth, MemberHealth, judge
from scaler_plugin.localcloud.demo.report import DemoReport
from scaler_plugin.localcloud.demo.scene import InstanceSeen, Scene, TaskSeen, TermSeen

WIDTH = 60
LONG = """
cluster: demo
pools:
  - name: cpu
    queues: [default, a-queue-with-a-long-name, another-queue-with-a-long-name]
    instance_types: [c6i.large, m6i.large, r6i.large]
    ami: ami-1234
    max_instances: 3
    subnets: [subnet-0a1b2c3d4e5f60001, subnet-0a1b2c3d4e5f60002]
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_command_on_a_line_of_its_own_is_left_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    command = "    aws ssm put-parameter --region eu-central-1 --name /scaler-sidecar/research/etcd-ca"
    told = fitted(f"Warning: the secret does not exist yet. Store it:\n{command}", Terminal()).splitlines()
    assert told == ["Warning: the secret does not", "    exist yet. Store it:", command]


def on_terminal(*arguments: str, cwd: Path) -> list[str]:
    """What stands on a terminal of ``WIDTH`` columns at the end."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "scaler_plugin", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=kept,
        cwd=cwd,
    )
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 4096):
            seen += part
    except OSError:  # the other side is closed
        pass
    process.wait()
    os.close(ours)
    return seen.decode().replace("\r\n", "\n").splitlines()


def test_what_init_could_not_check_is_broken_between_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "CLEARML_", "SCALER_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    options = "--region eu-central-1 --ami ami-0a1b2c3d --etcd 127.0.0.1:1 --clearml-api http://127.0.0.1:1"
    lines = on_terminal("init", "--yes", *options.split(), cwd=tmp_path)
    checked = lines[: lines.index("Wrote scaler.yaml.")]
    assert any(line.startswith("  ? region was not checked: ") for line in checked)
    assert any(line.startswith("      ") for line in checked)
    assert max(map(len, checked)) <= WIDTH


@pytest.mark.parametrize("mistake", ["", "    max_instance: 7\n"])
def test_on_a_terminal_what_validate_says_is_broken_between_words(tmp_path: Path, mistake: str) -> None:
    (tmp_path / "scaler.yaml").write_text(LONG + mistake)
    lines = on_terminal("config", "validate", "scaler.yaml", cwd=tmp_path)
    assert len(lines) > 4
    assert max(map(len, lines)) <= WIDTH
    words = " ".join(lines).split()
    piped = subprocess.run(
        [sys.executable, "-m", "scaler_plugin", "config", "validate", "scaler.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    whole = piped.stdout + piped.stderr
    assert words == whole.split()
    assert max(map(len, whole.splitlines())) > WIDTH, "in a pipe a line stays a line"


def test_a_word_that_is_longer_than_the_terminal_stays_whole(tmp_path: Path) -> None:
    folder = tmp_path / ("a-long-name" * 8)
    folder.mkdir()
    (folder / "scaler.yaml").write_text("cluster: demo\n")
    path = str(folder / "scaler.yaml")
    assert path in " ".join(on_terminal("config", "validate", path, cwd=tmp_path)).split()


def test_the_reference_tells_no_default_that_is_empty() -> None:
    assert "Default: ``" not in reference()
    assert "Default: `3`" in reference()


def test_no_line_of_the_demos_tables_ends_with_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene(
        at_s=9.0,
        tasks=(TaskSeen("a" * 32, "sleep", "demo-cpu", "completed", wait_s=1.0, run_s=2.0, node="i-1"),),
        instances=(InstanceSeen("i-1", "cpu", "terminated", 1.0, 2.0, "guest"),),
        terms=(TermSeen("standby-a", 4, 1.0, 9.0),),
    )
    DemoReport(scene).show(Console(width=160))
    lines = capsys.readouterr().out.splitlines()
    assert "Instance  Pool  Launched at  Ended at  Ended by" in lines
    assert [line for line in lines if line != line.rstrip()] == []


def test_the_table_of_etcds_members_has_no_trailing_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    ends = datetime(2027, 1, 2, tzinfo=timezone.utc)
    members = tuple(
        MemberHealth(
            f"etcd-{number}", f"10.0.0.{number}:2379", "3.5.21", size=20_000, quota=2**31, certificate_ends=end
        )
        for number, end in enumerate((ends, None), start=1)
    )
    health = EtcdHealth(members, configured=2)
    _print_table(health, judge(health, datetime(2026, 11, 25, tzinfo=timezone.utc)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["MEMBERS", "endpoint", "version"]
    assert lines[1].endswith("2027-01-02")
    assert [line for line in lines if line != line.rstrip()] == []
