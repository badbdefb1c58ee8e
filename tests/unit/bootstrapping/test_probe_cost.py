"""The table of the probe's cost in docs/zero.md follows from its formula, its stated prices and the sizes of our images."""

from __future__ import annotations

import json
import re
from pathlib import Path

from scaler_plugin.bootstrapping.ground import Ground, PoolGround
from scaler_plugin.bootstrapping.template import render_template

from .made_up import changed, probe_user_data

TOP = Path(__file__).resolve().parents[3]
PAGE = (TOP / "docs" / "zero.md").read_text(encoding="utf-8")

MONTH_H = 730
BILLED_S = 60
BOOT_S = 30
UNITS_S = {"m": 60, "h": 3600}
CPU_GB = int(json.loads((TOP / "packer.json").read_text())["variables"]["volume_gb"])
GPU_GB = int(json.loads((TOP / "ami" / "vars" / "gpu.json").read_text())["volume_gb"])


def stated(pattern: str) -> float:
    found = re.search(pattern, PAGE)
    assert found, pattern
    return float(found[1])


def test_every_row_of_the_table_is_what_the_formula_gives() -> None:
    instance = stated(r"t3\.micro ([\d.]+) USD per hour")
    address = stated(r"IPv4 address ([\d.]+) USD per hour")
    gigabyte = stated(r"gp3 at ([\d.]+) USD per GB and month") / MONTH_H
    amount = r"([\d.]+) USD"
    rows = re.findall(
        rf"^\| (\d+)([mh]) \| (\d+) \| {amount} \| {amount} \| {amount} \| (\d+) min (\d+) s \|$", PAGE, re.MULTILINE
    )
    assert len(rows) == 4
    for number, unit, runs, alone, whole, with_gpus, minutes, seconds in rows:
        period_s = int(number) * UNITS_S[unit]
        expected = MONTH_H * 3600 / period_s
        hours = expected * BILLED_S / 3600
        assert int(runs) == round(expected)
        assert float(alone) == round(hours * instance, 2)
        assert float(whole) == round(hours * (instance + address + CPU_GB * gigabyte), 2)
        assert float(with_gpus) == round(hours * (instance + address + GPU_GB * gigabyte), 2)
        assert int(minutes) * 60 + int(seconds) == period_s / 2 + BOOT_S


def test_the_sizes_on_the_page_are_those_of_our_images() -> None:
    assert stated(r"(\d+) GB as `packer\.json`") == CPU_GB
    assert stated(r"(\d+) GB from `ami/vars/gpu\.json`") == GPU_GB


def test_the_probes_volume_is_as_large_as_its_image_whatever_the_pool_says() -> None:
    of = changed(volume={"size_gb": 500})
    grounds = {pool.name: PoolGround(("subnet-1",), "/dev/sda1", CPU_GB, pool.ami) for pool in of.pools}
    probe = render_template(of, Ground("vpc-1", grounds), probe_user_data(of))["Resources"]["ProbeTemplate"]
    (disk,) = probe["Properties"]["LaunchTemplateData"]["BlockDeviceMappings"]
    assert disk["Ebs"]["VolumeSize"] == CPU_GB
