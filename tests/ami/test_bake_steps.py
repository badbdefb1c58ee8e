"""Single steps of the bake on source images that bring more than the plain Debian of the bake's own test."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .baking import HOLD
from .source_image import SourceImage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

DAEMON_JSON = "/etc/docker/daemon.json"
NVIDIA = {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}, "default-runtime": "nvidia"}
OWN_LOGS = {"log-driver": "local", "log-opts": {"max-size": "20m", "max-file": "2"}}
#: Keeps what it was called with.
RECORDS = '#!/bin/sh\necho "${0##*/} $*" >>/calls\n'
#: A step as provision.sh runs it.
STEP = """
say() { echo "scaler-sidecar: $*"; }
fail() { echo "scaler-sidecar: $*" >&2; exit 1; }
. /etc/os-release
ami=/bundle/ami
. /bundle/ami/steps/%s.sh
"""


@pytest.fixture
def source(image: Path, tmp_path: Path) -> Iterator[SourceImage]:
    source = SourceImage(image, tmp_path / "source")
    yield source
    source.remove()


def docker_settings(source: SourceImage) -> Any:
    done = source.sh("sh /bundle/ami/steps/docker.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((source.root / DAEMON_JSON.lstrip("/")).read_text())


@pytest.mark.parametrize(
    ("given", "added"),
    [
        (NVIDIA, {"live-restore": True, **OWN_LOGS}),
        ({"live-restore": False, "log-driver": "json-file"}, {"live-restore": True}),
        ({"log-opts": {"max-size": "5m"}}, {"live-restore": True}),
        ({}, {"live-restore": True, **OWN_LOGS}),
    ],
    ids=["nvidia", "logs of its own", "bound of its own", "empty"],
)
def test_docker_settings_of_the_source_image_stay_and_what_nodes_need_is_added(
    source: SourceImage, given: dict[str, Any], added: dict[str, Any]
) -> None:
    source.write(DAEMON_JSON, json.dumps(given) if given else "")
    assert docker_settings(source) == given | added
    assert docker_settings(source) == given | added  # nor does a second time change anything


def test_dockers_settings_lie_there_before_its_package_starts_it(source: SourceImage) -> None:
    source.sh("rm -rf /usr/bin/dockerd /usr/sbin/dockerd /etc/docker")
    source.add_program("apt-get", RECORDS + "grep live-restore /etc/docker/daemon.json >>/calls\n")
    assert docker_settings(source) == {"live-restore": True, **OWN_LOGS}
    calls = (source.root / "calls").read_text().splitlines()
    assert calls[-2:] == [
        "apt-get -q -y --no-install-recommends install docker.io",
        '  "live-restore": true,',
    ]


def test_a_docker_that_runs_already_takes_changed_settings_and_is_left_alone_otherwise(source: SourceImage) -> None:
    source.write(DAEMON_JSON, json.dumps(NVIDIA))
    source.add_program("systemctl", RECORDS)
    set_up = "mkdir -p /run/systemd/system; sh /bundle/ami/steps/docker.sh"
    restarts = ["systemctl reload docker.service", "systemctl try-restart docker.service"]
    for expected in (restarts, []):
        done = source.sh(set_up)
        assert done.returncode == 0, done.stdout + done.stderr
        calls = (source.root / "calls").read_text().splitlines()
        assert [call for call in calls if "restart" in call or "reload" in call] == expected
        (source.root / "calls").unlink()


def test_docker_settings_that_cannot_be_read_end_the_bake_with_a_sentence(source: SourceImage) -> None:
    source.write(DAEMON_JSON, '{"runtimes": }')
    done = source.sh("sh /bundle/ami/steps/docker.sh")
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"scaler-sidecar: {DAEMON_JSON} of this image can't be read, and docker would not start"
    )


def test_what_holds_the_package_manager_for_too_long_is_named(source: SourceImage) -> None:
    source.write("/hold", HOLD + " sleep")
    source.add_program("sleep", "#!/bin/sh\n")
    done = source.sh(
        "perl /hold /var/lib/dpkg/lock &\nuntil lslocks | grep -q perl; do :; done\n" + STEP % "no_upgrades"
    )
    assert done.returncode == 1
    assert re.search(
        r"Something else has been installing packages for 5 minutes: perl +\d+ /var/lib/dpkg/lock\n", done.stderr
    )


def test_snaps_are_held(source: SourceImage) -> None:
    source.add_program("snap", RECORDS)
    done = source.sh(STEP % "no_upgrades")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (source.root / "calls").read_text().splitlines() == ["snap wait system seed.loaded", "snap refresh --hold"]


def test_snaps_that_cannot_be_held_are_told_of_and_end_no_bake(source: SourceImage) -> None:
    source.add_program("snap", "#!/bin/sh\nexit 1\n")
    done = source.sh(STEP % "no_upgrades")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scaler-sidecar: The snaps could not be held" in done.stdout


@pytest.mark.parametrize(
    ("branch", "packages"),
    [
        ("", ["linux-modules-nvidia-570-server-aws", "nvidia-headless-no-dkms-570-server", "nvidia-utils-570-server"]),
        (
            "580-server-open",
            [
                "linux-modules-nvidia-580-server-open-aws",
                "nvidia-headless-no-dkms-580-server-open",
                "nvidia-utils-580-server",
            ],
        ),
    ],
    ids=["default", "open"],
)
def test_the_branch_of_the_driver_is_chosen(source: SourceImage, branch: str, packages: list[str]) -> None:
    source.add_program("apt-get", RECORDS)
    source.add_program("nvidia-ctk", RECORDS)
    source.write("/etc/os-release", "ID=ubuntu\nVERSION_ID=24.04\n")
    variables = f"SCALER_GPU_DRIVER=install SCALER_NVIDIA_BRANCH={branch}\n"
    done = source.sh(variables + STEP % "gpu")
    assert done.returncode == 0, done.stdout + done.stderr
    installed, configured = (source.root / "calls").read_text().splitlines()
    assert installed.split()[-3:] == packages
    assert configured == "nvidia-ctk runtime configure --runtime=docker"
