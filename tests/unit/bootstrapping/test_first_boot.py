"""The user-data of a stock image: these very parts, whoever launches, within EC2's limit, and nothing of them left to fill in."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from email import message_from_string
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from scaler_plugin.bootstrapping.template import render_template
from scaler_plugin.cli.app import app
from scaler_plugin.cloud.multipart import LIMIT_BYTES as EC2_LIMIT_BYTES
from scaler_plugin.cloud.multipart import NODE_TYPE
from scaler_plugin.cloud.user_data import LIMIT_BYTES, parse_user_data
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.core.model import LaunchId, NodeRole, PoolName
from scaler_plugin.node.assembly import UserDataWriter

from .made_up import CONFIG, config, ground

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
URL = "https://files.example.com/scaler/ami-bundle.tar.gz"
STOCK = CONFIG + f"    first_boot: {{bundle_url: '{URL}', bundle_sha256: {SHA256}}}\n"
WRITER = UserDataWriter(EtcdSettings(("10.0.0.5:2379",)), "scaler-sidecar")
PACKAGED = Path(__file__).parents[3] / "bootstrap/cloud-init.yaml"


def written(text: str = STOCK, pool: str = "cpu") -> str:
    return WRITER(config(text), PoolName(pool), LaunchId("l1"))


def parts(text: str) -> tuple[str, str]:
    """cloud-init's part and the sidecar's, as any reader of MIME finds them."""
    cloud, node = message_from_string(text).get_payload()
    assert (cloud.get_content_type(), node.get_content_type()) == ("text/cloud-config", NODE_TYPE)
    return cloud.get_payload(), node.get_payload()


def test_behind_cloud_inits_part_stands_the_nodes_own_user_data_as_it_would_be_without() -> None:
    _, node = parts(written())
    assert node == written(CONFIG)
    assert parse_user_data(written()) == parse_user_data(written(CONFIG))


def test_a_pool_of_a_baked_image_beside_it_has_its_user_data_alone() -> None:
    assert written(pool="gpu-spot") == written(CONFIG, pool="gpu-spot")


def test_nothing_is_left_to_fill_in_and_the_rest_is_the_file_of_the_repository() -> None:
    cloud, _ = parts(written())
    filled = {"<bundle-url>": URL, "<bundle-hash>": SHA256, "<variant>": "cpu", "<limit>": "1200"}
    expected = PACKAGED.read_text()
    for name, value in filled.items():
        assert name in expected
        expected = expected.replace(name, value)
    assert cloud == expected
    assert re.findall(r"<[a-z][a-z-]*>", cloud) == []


def test_the_limit_is_the_pools_startup_timeout_and_the_variant_its_own() -> None:
    text = STOCK.replace("first_boot: {", "startup_timeout: 40m\n    first_boot: {variant: gpu, ")
    cloud = yaml.safe_load(parts(written(text))[0])
    assert "--on-active=2400s" in cloud["bootcmd"][0]
    assert "SCALER_VARIANT=gpu" in cloud["write_files"][0]["content"]


def test_the_probe_shares_the_pools_image_and_so_its_first_boot() -> None:
    text = WRITER.probe(config(STOCK))
    assert parse_user_data(text).role is NodeRole.PROBE
    assert parts(text)[0] == parts(written())[0]
    template = render_template(config(STOCK), ground(config(STOCK)), text)
    data = template["Resources"]["ProbeTemplate"]["Properties"]["LaunchTemplateData"]["UserData"]
    assert data == {"Fn::Base64": text}


def test_bootstrap_prints_the_same(tmp_path: Path) -> None:
    file = tmp_path / "scaler.yaml"
    file.write_text(STOCK)
    printed = CliRunner().invoke(app, ["bootstrap", "user-data", str(file), "--pool", "cpu"])
    assert printed.output == WRITER(config(STOCK), PoolName("cpu"), LaunchId("by-hand"))


def test_the_longest_parts_fit_into_what_ec2_takes() -> None:
    longest = STOCK.replace(URL, f"https://files.example.com/{'x' * (1024 - 26)}")
    assert len(written(longest)) + LIMIT_BYTES < EC2_LIMIT_BYTES


@pytest.mark.parametrize("part", ["bootcmd", "write_files", "runcmd"])
def test_shellcheck_finds_nothing_in_its_scripts(part: str) -> None:
    (item,) = yaml.safe_load(parts(written())[0])[part]
    script = item["content"] if part == "write_files" else item
    shellcheck = [Path(sysconfig.get_path("scripts")) / "shellcheck", "--shell=sh", "-"]
    checked = subprocess.run(shellcheck, input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.parametrize("words", ["bootstrap/cloud-init.yaml", "bootstrap/stack.yaml", "bootstrap/policies"])
def test_what_bootstrap_has_at_the_top_is_what_the_package_carries(words: str) -> None:
    at_the_top = PACKAGED.parents[1] / words
    assert at_the_top.resolve().parent.parts[-2:] == ("scaler_plugin", "bootstrapping")
