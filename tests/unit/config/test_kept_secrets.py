"""TLS files and passwords that AWS keeps: fetched once a boot, into files that nobody else can read."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from scaler_plugin.cloud.metadata import ImdsMetadata
from scaler_plugin.config.connect import local_file
from scaler_plugin.config.kept_secrets import kept_file, resolve_kept
from scaler_plugin.config.secret_ref import parse_secret_ref
from scaler_plugin.errors import CloudRefused

REGION = "eu-central-1"
PEM = "-----BEGIN CERTIFICATE-----\nCANARY\n-----END CERTIFICATE-----"
CERT = parse_secret_ref("ssm:/scaler-sidecar/demo/etcd-cert")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SSM", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCALER_STATE_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    with mock_aws():
        boto3.client("ssm", region_name=REGION).put_parameter(Name=CERT.name, Value=f"{PEM}\n", Type="SecureString")
        yield tmp_path / "run"


def test_a_reference_becomes_a_private_file_with_the_text(state: Path) -> None:
    path = local_file(str(CERT), REGION)
    assert path is not None
    assert Path(path).read_text() == PEM
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert Path(path).parent == state / "etcd"
    assert stat.S_IMODE((state / "etcd").stat().st_mode) == 0o700


def test_a_path_stays_what_it_is() -> None:
    assert local_file("/etc/scaler/ca.pem", None) == "/etc/scaler/ca.pem"
    assert local_file("certs/ca.pem", None) == "certs/ca.pem"
    assert local_file(None, None) is None


def test_the_second_process_of_a_boot_asks_nobody(state: Path) -> None:
    first = kept_file(CERT, REGION)
    boto3.client("ssm", region_name=REGION).delete_parameter(Name=CERT.name)
    assert kept_file(CERT, REGION) == first
    assert resolve_kept(CERT, REGION) == PEM
    code = (
        "import sys\n"
        "from scaler_plugin.config.connect import local_file\n"
        f"print(local_file({str(CERT)!r}, {REGION!r}))\n"
        "assert 'boto3' not in sys.modules\n"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == str(first)


def test_a_file_that_others_could_have_written_is_not_believed(state: Path) -> None:
    kept = kept_file(CERT, REGION)
    kept.write_text("forged")
    kept.chmod(0o644)
    assert kept_file(CERT, REGION).read_text() == PEM
    kept.unlink()
    (state / "planted").write_text("forged")
    kept.symlink_to(state / "planted")
    assert kept_file(CERT, REGION).read_text() == PEM


def test_without_a_state_directory_the_file_ends_with_the_process(state: Path) -> None:
    code = (
        "import boto3, os\n"
        "from moto import mock_aws\n"
        "from scaler_plugin.config.connect import local_file\n"
        "with mock_aws():\n"
        f"    boto3.client('ssm', region_name={REGION!r}).put_parameter(Name={CERT.name!r}, Value='x', Type='SecureString')\n"
        f"    path = local_file({str(CERT)!r}, {REGION!r})\n"
        "assert os.path.exists(path)\n"
        "print(path)\n"
    )
    environment = {**os.environ, "SCALER_STATE_DIR": "/proc/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).parent.exists()


def test_on_a_persons_machine_nothing_is_kept_and_a_renewed_certificate_counts_at_once(state: Path) -> None:
    state.rmdir()
    assert kept_file(CERT, REGION).read_text() == PEM
    boto3.client("ssm", region_name=REGION).put_parameter(Name=CERT.name, Value="renewed", Overwrite=True)
    assert kept_file(CERT, REGION).read_text() == "renewed"
    assert not state.exists()


def test_on_an_instance_its_own_region_is_asked_when_none_is_set(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User-data names no region, and boto3's chain takes none from the metadata service."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(ImdsMetadata, "region", lambda _: REGION)
    assert resolve_kept(CERT) == PEM


def test_a_missing_parameter_is_a_sentence(state: Path) -> None:
    with pytest.raises(CloudRefused, match="ssm:/scaler-sidecar/demo/missing cannot be read"):
        local_file("ssm:/scaler-sidecar/demo/missing", REGION)
