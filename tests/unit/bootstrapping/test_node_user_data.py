"""The user-data that bootstrap writes and prints: these very texts, readable, small, and without a secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from scaler_plugin.cli.app import app
from scaler_plugin.cloud.user_data import LIMIT_BYTES

from .made_up import CONFIG

WORKER = """\
# scaler-sidecar: what this instance is. It holds names of secrets, never a secret.
cluster: research
prefix: scaler-sidecar
role: worker
pool: cpu
launch: by-hand
etcd:
  endpoints:
  - 10.0.0.5:2379
  user: scaler
  password: ssm:/scaler-sidecar/research/etcd-password
"""
PROBE = """\
# scaler-sidecar: what this instance is. It holds names of secrets, never a secret.
cluster: research
prefix: scaler-sidecar
role: probe
etcd:
  endpoints:
  - 10.0.0.5:2379
  user: scaler
  password: ssm:/scaler-sidecar/research/etcd-password
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SCALER_ETCD", "SCALER_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "scaler.yaml"
    path.write_text(CONFIG)
    return path


def printed(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["bootstrap", "user-data", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_that_of_a_worker(file: Path) -> None:
    assert printed(file, "--pool", "cpu") == WORKER


def test_that_of_a_probe(file: Path) -> None:
    assert printed(file, "--probe") == PROBE


def test_a_tunnel_and_certificates_of_the_administrators_machine_stay_out(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALER_ETCD", "127.0.0.1:2379")
    monkeypatch.setenv("SCALER_ETCD_CERT", "/home/me/client.pem")
    assert printed(file, "--pool", "cpu") == WORKER


def test_both_are_far_below_the_limit() -> None:
    assert max(len(WORKER), len(PROBE)) < LIMIT_BYTES / 4


def test_an_unknown_pool_is_a_sentence_with_those_that_there_are(file: Path) -> None:
    assert "it has gpu-spot, cpu" in printed(file, "--pool", "tpu", code=2)


def test_without_an_address_of_etcd_nothing_is_printed_that_could_not_work(file: Path) -> None:
    file.write_text(CONFIG.replace("  endpoints: [10.0.0.5:2379]\n", ""))
    assert "Set etcd.endpoints" in printed(file, code=2)
