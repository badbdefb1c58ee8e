"""Small readings of the original's values: durations in minutes, lists that may be text, tags, docker arguments, names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from scaler_plugin.config.duration import Duration
from scaler_plugin.config.masking import secret_spans

_LONGEST_NAME = 40
#: Infinity is a number, too.
_NO_TIME_MIN = 1e12


def minutes(value: Any) -> Duration | None:
    """``None`` for what is no number of minutes above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _NO_TIME_MIN:
        return None
    return Duration(round(value * 60_000))


def listed(value: Any) -> list[str]:
    """The original takes a list or a comma list."""
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    return list(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


def tags(value: Any) -> dict[str, str] | None:
    """``a=b, c=d`` as in the original; ``None`` for anything else."""
    found = {}
    for part in listed(value):
        name, equals, text = part.partition("=")
        if not equals or not name.strip() or not text.strip():
            return None
        found[name.strip()] = text.strip()
    return found


def name_of(text: str, taken: Sequence[str] = ()) -> str:
    """The name as ours are: a-z, 0-9 and -; different from those taken."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST_NAME].strip("-") or "pool"
    candidate, number = plain, 2
    while candidate in taken:
        suffix = f"-{number}"
        candidate, number = f"{plain[: _LONGEST_NAME - len(suffix)]}{suffix}", number + 1
    return candidate


def image_and_arguments(text: str) -> tuple[str, list[str]]:
    """The original's docker setting is an image with arguments of ``docker run`` behind it. Raises ``ValueError``."""
    parts = shlex.split(text)
    return (parts[0], parts[1:]) if parts else ("", [])


def without_secrets(text: str) -> tuple[str, list[int]]:
    """The text without the lines in which something looks like a secret, and the numbers of those lines."""
    spans = secret_spans(text)
    kept, dropped, start = [], [], 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        stop = start + len(line)
        # A secret may be several lines long, as a private key is.
        if any(first < stop and last > start for first, last in spans):
            dropped.append(number)
            kept.append("# A line with a secret stood here.")
        else:
            kept.append(line.rstrip("\r\n"))
        start = stop
    return "\n".join(kept) + "\n", dropped
