"""What the image's files must say in common, and what must not be in them."""

from __future__ import annotations

import json
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[3]
AMI = PROJECT / "ami"
TEMPLATE = json.loads((PROJECT / "packer.json").read_text())


def test_the_template_names_the_versions_that_are_built_and_locked() -> None:
    config = ConfigParser()
    config.read(PROJECT / "setup.cfg")
    assert TEMPLATE["variables"]["sidecar_version"] == config["metadata"]["version"]
    assert f"clearml-agent=={TEMPLATE['variables']['agent_version']} " in (AMI / "requirements.lock").read_text()


@pytest.mark.parametrize("name", ["requirements.lock", "build-requirements.lock"])
def test_every_package_of_a_lock_has_hashes_and_no_address(name: str) -> None:
    text = (AMI / name).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    entries = re.split(r"(?m)^(?=\S)", text)[1:]
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_every_dependency_of_the_package_is_in_the_lock() -> None:
    config = ConfigParser()
    config.read(PROJECT / "setup.cfg")
    lines = config["options"]["install_requires"].splitlines()
    wanted = {re.split(r"[<>=!~ ;\[]", line)[0].lower() for line in lines if line and not line.startswith("#")}
    locked = set(re.findall(r"(?m)^([\w.-]+)==", (AMI / "requirements.lock").read_text()))
    assert wanted <= locked


@pytest.mark.parametrize("path", sorted((AMI / "vars").iterdir()), ids=lambda path: path.stem)
def test_a_file_of_variables_sets_only_what_the_template_has(path: Path) -> None:
    assert set(json.loads(path.read_text())) <= set(TEMPLATE["variables"])


def test_what_is_secret_is_not_printed() -> None:
    assert set(TEMPLATE["sensitive-variables"]) == {"access_key", "secret_key", "session_token"}


def test_every_variable_is_used_and_explained() -> None:
    used = json.dumps([TEMPLATE["builders"], TEMPLATE["provisioners"]])
    explained = (AMI / "README.md").read_text()
    for name in TEMPLATE["variables"]:
        assert f"user `{name}`" in used, name
        assert f"`{name}`" in explained, name


def test_the_root_volume_is_encrypted() -> None:
    (builder,) = TEMPLATE["builders"]
    (volume,) = builder["launch_block_device_mappings"]
    assert volume["encrypted"] is True


def test_the_first_boot_provisions_with_the_images_own_script() -> None:
    (script,) = yaml.safe_load((PROJECT / "bootstrap/cloud-init.yaml").read_text())["write_files"]
    assert 'ami/provision.sh" first-boot' in script["content"]
    assert "sha256sum --check" in script["content"]
