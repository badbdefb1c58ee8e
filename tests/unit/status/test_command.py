"""The command itself, on a real etcd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.localcloud.etcd import EtcdProcess, free_port

from .made_up import large_cluster, puts

pytestmark = pytest.mark.real

SCHEMA = Path(__file__).parents[3] / "docs" / "status.schema.json"


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdProcess]:
    with EtcdProcess() as process:
        store = open_store([process.endpoint])
        writes = puts(*large_cluster(2500))
        for start in range(0, len(writes), 100):
            store.transact([], writes[start : start + 100])
        store.close()
        yield process


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SCALER_") and name != "COLUMNS"}
    return subprocess.run(
        [sys.executable, "-m", "scaler_plugin", "status", *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_shows_a_cluster_of_several_pages_and_exits_0(etcd: EtcdProcess) -> None:
    done = run("--cluster", "demo", "--etcd", etcd.endpoint)
    assert (done.returncode, done.stderr) == (0, "")
    assert "leader i-0aa00000000000000" in done.stdout
    assert "--all lists them" in done.stdout


def test_json_is_one_object_in_the_published_format(etcd: EtcdProcess) -> None:
    done = run("--json", SCALER_CLUSTER="demo", SCALER_ETCD=etcd.endpoint)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert len(found["nodes"]) == 2501


def test_a_cluster_that_does_not_exist_is_a_report_and_not_an_error(etcd: EtcdProcess) -> None:
    done = run("--cluster", "dmeo", "--etcd", etcd.endpoint)
    assert done.returncode == 0
    assert "etcd holds nothing about cluster dmeo" in done.stdout


def test_it_imports_neither_boto3_nor_clearml(etcd: EtcdProcess) -> None:
    code = (
        "import sys; from scaler_plugin.cli.app import app\n"
        "try: app(['status'])\n"
        "finally: print(sorted({'boto3','botocore','clearml','clearml_agent','structlog'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SCALER_CLUSTER": "demo", "SCALER_ETCD": etcd.endpoint},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.strip() == "[]"


def assert_one_sentence(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "check that" in done.stderr


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_an_etcd_that_refuses_connections_is_one_sentence_and_exit_code_3(how: tuple[str, ...]) -> None:
    assert_one_sentence(run(*how, "--cluster", "demo", "--etcd", f"127.0.0.1:{free_port()}"))


def test_an_etcd_that_hangs_is_one_sentence_and_exit_code_3() -> None:
    with EtcdProcess() as hung:
        hung.suspend()
        try:
            assert_one_sentence(run("--cluster", "demo", "--etcd", hung.endpoint))
        finally:
            hung.resume()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--cluster"),
        (("--watch", "--json", "--cluster", "demo"), "--json"),
        (("--watch", "--cluster", "demo"), "terminal"),
    ],
)
def test_wrong_usage_is_a_sentence_and_exit_code_2(arguments: tuple[str, ...], named: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
