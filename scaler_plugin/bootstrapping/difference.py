"""What would change: two templates compared, as lines for a person. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

#: Properties whose change makes CloudFormation put a new resource in the old one's place, for the types of our stack.
_REPLACING = {
    "AWS::EC2::LaunchTemplate": ("LaunchTemplateName",),
    "AWS::EC2::SecurityGroup": ("GroupDescription", "GroupName", "VpcId"),
    "AWS::IAM::Policy": ("PolicyName",),
    "AWS::Scheduler::Schedule": ("Name", "GroupName"),
}

#: A longer value is cut in the middle of a line that shows a change.
_SHOWN = 70


class ChangeKind(str, Enum):
    ADD = "+"
    CHANGE = "~"
    REPLACE = "±"
    REMOVE = "-"


@dataclass(frozen=True)
class Change:
    """One resource. ``details``: the settings that change, "path: old → new"; of a text, "path:" and then its lines that differ."""

    kind: ChangeKind
    name: str
    resource_type: str
    details: tuple[str, ...] = ()


def compare(deployed: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[Change, ...]:
    """What brings the deployed template to the wanted one, in the wanted one's order; removals last."""
    old, new = deployed.get("Resources", {}), wanted.get("Resources", {})
    changes = []
    for name, resource in new.items():
        if name not in old:
            changes.append(Change(ChangeKind.ADD, name, resource["Type"]))
        elif old[name] != resource:
            changes.append(_changed(name, old[name], resource))
    for name, resource in old.items():
        if name not in new:
            changes.append(Change(ChangeKind.REMOVE, name, resource["Type"]))
    return tuple(changes)


def describe(changes: tuple[Change, ...]) -> list[str]:
    """The changes as lines."""
    lines = []
    for change in changes:
        kind = f" (replaced by a new one: {change.kind.value})" if change.kind is ChangeKind.REPLACE else ""
        lines.append(f"  {change.kind.value} {change.name}  {change.resource_type}{kind}")
        lines += [f"      {detail}" for detail in change.details]
    return lines


def _changed(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
    kind = ChangeKind.CHANGE
    before, after = old.get("Properties", {}), new.get("Properties", {})
    if old["Type"] != new["Type"] or any(before.get(key) != after.get(key) for key in _REPLACING.get(new["Type"], ())):
        kind = ChangeKind.REPLACE
    return Change(kind, name, new["Type"], tuple(_differences("", old, new)))


def _differences(path: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            # {"Fn::Sub": "…"} and its like are a value.
            plain = key.startswith("Fn::") or (not path and key == "Properties")
            below = path if plain else f"{path}.{key}".lstrip(".")
            yield from _differences(below, old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{path}[{number}]", *pair)
    elif isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        yield f"{path}:"
        yield from _lines_that_differ(old, new)
    else:
        yield f"{path}: {_shown(old)} → {_shown(new)}"


def _lines_that_differ(old: str, new: str) -> Iterator[str]:
    # Its own headers are the only lines that do not begin with - or +, but for the first two.
    lines = list(difflib.unified_diff(old.split("\n"), new.split("\n"), n=0, lineterm=""))[2:]
    for line in lines:
        if not line.startswith("@@"):
            yield f"  {line[0]} {line[1:]}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping) and len(value) == 1:
        (inner,) = value.values()  # {"Fn::Sub": "…"} and its like
        return _shown(inner)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    first, *others = text.splitlines() or [""]
    if others:
        return f"{first[:_SHOWN]} … ({len(others) + 1} lines)"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
