"""The page on bootstrap names each right at AWS that a command of people calls for."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_CALL = re.compile(r'\.(?:call|pages|found)\(\s*"[a-z0-9-]+",\s*"([a-z_]+)"')
_OF_THE_STACK = re.compile(r'self\._(?:call|begin)\(\s*"([a-z_]+)"')


def called() -> set[str]:
    """Actions by their names at AWS, as the sources of bootstrap and those of the fleet have them."""
    sources = [file.read_text() for file in (ROOT / "scaler_plugin" / "bootstrapping").glob("*.py")]
    names = {name for text in sources for pattern in (_CALL, _OF_THE_STACK) for name in pattern.findall(text)}
    fleet = (ROOT / "scaler_plugin" / "cloud" / "ec2.py").read_text()
    names |= set(re.findall(r'"((?:run|terminate|describe)_instances|get_console_output)"', fleet))
    return {"".join(part.capitalize() for part in name.split("_")) for name in names}


def section() -> str:
    page = (ROOT / "docs" / "bootstrap.md").read_text(encoding="utf-8")
    return page.partition("## Who may do this")[2].partition("\n## ")[0]


def rights(text: str) -> set[str]:
    return set(re.findall(r"`(?:[a-z]+:)?([A-Z]\w+)`", text))


def test_every_call_that_the_sources_make_stands_on_the_page() -> None:
    named = rights(section())
    assert {"CreateStack", "DescribeInstanceTypeOfferings", "RunInstances", "GetServiceQuota"} <= called()
    assert sorted(called() - named) == []


def test_the_right_to_look_up_the_probes_template_stands_where_the_command_that_does_it_is() -> None:
    sources = {file.name: file.read_text() for file in (ROOT / "scaler_plugin" / "bootstrapping").glob("*.py")}
    callers = [name for name, text in sources.items() if ".resource_id(" in text]
    assert callers == ["instances.py"], "launching, as first and wake do"
    rows = [row for row in section().splitlines() if "DescribeStackResource" in rights(row)]
    assert [row.split("|")[1].strip() for row in rows] == ["`first`, `wake`"]
