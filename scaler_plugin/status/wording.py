"""Durations and names as people read them, in as few characters as a table has."""

from __future__ import annotations

import re

_MINUTE, _HOUR, _DAY = 60, 3600, 86400

#: Whole escape sequences first, then single control characters; tabs and line ends are for the caller to treat.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def duration(seconds: float | None) -> str:
    """``42s``, ``5m 12s``, ``42m``, ``3h 12m``, ``4d 3h``, ``120d``: at most 7 characters; empty for ``None``."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < 10 * _MINUTE:
        return _two(whole, _MINUTE, "m", 1, "s")
    if whole < _HOUR:
        return f"{whole // _MINUTE}m"
    if whole < _DAY:
        return _two(whole, _HOUR, "h", _MINUTE, "m")
    return _two(whole, _DAY, "d", _HOUR, "h") if whole < 100 * _DAY else f"{whole // _DAY}d"


def _two(whole: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = whole % large // small
    return f"{whole // large}{large_name}" + (f" {rest}{small_name}" if rest else "")


def counted(number: int, one: str, many: str = "") -> str:
    """``1 task``, ``2 tasks``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def plain(text: str) -> str:
    """The text without terminal escapes: names and console output come from other programs and may not steer a terminal."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
