"""The table of the probe's cost in docs/zero.md follows from its formula and its stated prices."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "zero.md").read_text(encoding="utf-8")

MONTH_H = 730
BILLED_S = 60
BOOT_S = 30
UNITS_S = {"m": 60, "h": 3600}


def stated(pattern: str) -> float:
    found = re.search(pattern, PAGE)
    assert found, pattern
    return float(found[1])


def test_every_row_of_the_table_is_what_the_formula_gives() -> None:
    instance = stated(r"t3\.micro ([\d.]+) USD per hour")
    address = stated(r"IPv4 address ([\d.]+) USD per hour")
    volume = stated(r"volume of (\d+) GB") * stated(r"at ([\d.]+) USD per GB and month") / MONTH_H
    rows = re.findall(r"^\| (\d+)([mh]) \| (\d+) \| ([\d.]+) USD \| ([\d.]+) USD \| (\d+) min (\d+) s \|$", PAGE, re.M)
    assert len(rows) == 4
    for number, unit, runs, alone, whole, minutes, seconds in rows:
        period_s = int(number) * UNITS_S[unit]
        expected = MONTH_H * 3600 / period_s
        hours = expected * BILLED_S / 3600
        assert int(runs) == round(expected)
        assert float(alone) == round(hours * instance, 2)
        assert float(whole) == round(hours * (instance + address + volume), 2)
        assert int(minutes) * 60 + int(seconds) == period_s / 2 + BOOT_S
