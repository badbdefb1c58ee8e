"""Fills the names in angle brackets of a parsed YAML document.

A string that is one name becomes the value, whatever its type; within a longer string only text goes in. ``None`` means "left out":
the key or the list's item goes. Names that are not given stay, since ``<aws.scheduler.execution-id>`` is EventBridge's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

_NAME = re.compile(r"<([a-z][a-z-]*)>")


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """A copy of the document, filled."""
    if isinstance(value, dict):
        filled = {key: fill(inner, values) for key, inner in value.items()}
        return {key: inner for key, inner in filled.items() if inner is not None}
    if isinstance(value, list):
        return [inner for inner in (fill(item, values) for item in value) if inner is not None]
    if not isinstance(value, str):
        return value
    whole = _NAME.fullmatch(value)
    if whole and whole[1] in values:
        return deepcopy(values[whole[1]])
    return _NAME.sub(lambda found: str(values.get(found[1], found[0])), value)
