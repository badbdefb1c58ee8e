"""``scaler-sidecar config``, on the in-memory store and on a real etcd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from scaler_plugin.cli.app import app
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.coordination.memory_store import MemoryStore
from scaler_plugin.localcloud.etcd import EtcdProcess, free_port
from scaler_plugin.simulation.clock import VirtualClock

SMALL = """\
cluster: demo
pools:
  - name: cpu
    queues: [default]
    instance_types: [c6i.large]
    ami: ami-1234
    max_instances: 3
"""
runner = CliRunner()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ETCD", "CLUSTER", "PREFIX", "ETCD_CA", "ETCD_CERT", "ETCD_KEY", "ETCD_USER", "ETCD_PASSWORD_FILE"):
        monkeypatch.delenv(f"SCALER_{name}", raising=False)


@pytest.fixture(scope="module")
def real_etcd() -> Iterator[EtcdProcess]:
    with EtcdProcess() as process:
        yield process


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.real)])
def prefix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An etcd that the environment leads to, and a prefix in it that no other test uses."""
    prefix = f"test-{abs(hash(request.node.nodeid))}"
    monkeypatch.setenv("SCALER_PREFIX", prefix)
    if request.param == "etcd":
        monkeypatch.setenv("SCALER_ETCD", request.getfixturevalue("real_etcd").endpoint)
    else:
        store = MemoryStore(VirtualClock())
        monkeypatch.setattr(EtcdSettings, "open", lambda settings, region=None: store.client("cli"))
    return prefix


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "scaler.yaml"
    path.write_text(SMALL)
    return path


def run(*arguments: str | Path, code: int = 0) -> str:
    """The command's stdout, or, where it must fail, its stderr; the other one must be empty."""
    result = runner.invoke(app, ["config", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert (result.stdout if code else result.stderr) == ""
    return result.stderr if code else result.stdout


def test_validate_sums_up_the_pools(small: Path) -> None:
    assert run("validate", small).splitlines() == [
        f"{small} is valid.",
        "cluster demo: 1 pool, at most 3 instances, zero mode standby",
        "  cpu: default → 0 to 3 on-demand x c6i.large, default subnet, idle 10m until it retires, virtual environments",
    ]


def test_validate_lists_every_mistake_with_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "scaler.yaml"
    path.write_text(SMALL.replace("demo", "DEMO").replace("max_instances: 3", "max_instances: 0"))
    lines = run("validate", path, code=2).splitlines()
    assert lines[0] == f"{path} has 2 mistakes; nothing was changed."
    assert [line.split(":")[0] for line in lines[1:]] == ["  cluster", "  pools[0].max_instances (pool cpu)"]


def test_schema_prints_json(small: Path) -> None:
    schema = json.loads(run("schema"))
    assert schema["required"] == ["cluster", "pools"]
    assert schema["additionalProperties"] is False


@pytest.mark.usefixtures("prefix")
def test_what_was_pushed_is_shown_with_its_revision(small: Path) -> None:
    pushed = run("push", small)
    assert pushed.startswith("Pushed to cluster demo in etcd at ")
    revision = pushed.rstrip(".\n").split()[-1]
    shown = run("show", "--cluster", "demo")
    assert shown.splitlines()[0] == f"# cluster demo, revision {revision}"
    assert yaml.safe_load(shown) == yaml.safe_load(SMALL)


@pytest.mark.usefixtures("prefix")
def test_pushing_the_same_again_writes_nothing(small: Path) -> None:
    revision = run("push", small).split()[-1]
    again = run("push", small)
    assert again.startswith("Unchanged: cluster demo in etcd at ")
    assert again.split()[-1] == revision
    small.write_text(SMALL + "poll_interval: 5s\n")
    assert run("push", small).split()[-1] != revision


@pytest.mark.usefixtures("prefix")
def test_a_bad_configuration_is_refused_before_anything_is_written(small: Path) -> None:
    run("push", small)
    before = run("show", "--cluster", "demo")
    small.write_text(SMALL + "colour: blue\n")
    assert "colour: is an unknown key" in run("push", small, code=2)
    assert run("show", "--cluster", "demo") == before


@pytest.mark.usefixtures("prefix")
def test_what_is_shown_can_be_pushed_again(small: Path) -> None:
    run("push", small)
    small.write_text(run("show", "--cluster", "demo"))
    assert run("push", small).startswith("Unchanged")


@pytest.mark.usefixtures("prefix")
def test_show_before_any_push_says_what_to_do(small: Path) -> None:
    sentence = run("show", "--cluster", "demo", code=2)
    assert sentence.startswith("No configuration is published for cluster demo in etcd at ")


@pytest.mark.usefixtures("prefix")
def test_show_takes_the_cluster_from_a_file(small: Path) -> None:
    run("push", small)
    assert run("show", "--config", small).startswith("# cluster demo")


@pytest.mark.usefixtures("prefix")
@pytest.mark.parametrize("by", ["--cluster", "SCALER_CLUSTER"])
def test_a_push_to_another_cluster_than_the_files_is_refused(
    small: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--cluster", "prod"] if by == "--cluster" else []
    if not options:
        monkeypatch.setenv("SCALER_CLUSTER", "prod")
    sentence = run("push", small, *options, code=2)
    assert f"is for cluster demo, but {by} says prod; nothing was written" in sentence


def test_no_cluster_named_is_a_sentence() -> None:
    assert (
        run("show", code=2) == "No cluster is named; give --cluster NAME, set SCALER_CLUSTER, or give --config FILE.\n"
    )


@pytest.mark.real
def test_an_etcd_that_is_not_there_is_one_sentence_and_exit_code_3(small: Path) -> None:
    sentence = run("push", small, "--etcd", f"127.0.0.1:{free_port()}", code=3)
    assert len(sentence.splitlines()) == 1
    assert "etcd" in sentence
