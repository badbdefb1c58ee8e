"""Turns what pydantic finds into sentences: where, what was found, what is allowed.

A value is repeated only where it cannot be a secret: scalars of fields that hold none. Of whatever stands in the wrong place
(a text where a section belongs, the value of a misspelt key) only its kind is told.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from scaler_plugin.config.rules import REFUSED, REFUSED_SECRET
from scaler_plugin.config.section import Section, holds_list, rule_of, section_of
from scaler_plugin.errors import ConfigError

Location = tuple[int | str, ...]
LONGEST_VALUE = 60


@dataclass(frozen=True)
class Problem:
    """One mistake: the key path (``pools[0].idle_timeout``), the value as found (or its kind), and what is allowed."""

    path: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; {self.allowed}"


class InvalidConfig(ConfigError):
    """The configuration has mistakes, all of them listed; nothing was changed."""

    def __init__(self, where: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        lines = "".join(f"\n  {problem}." for problem in problems)
        super().__init__(f"{where} has {count}; nothing was changed.{lines}")


def problems_of(error: ValidationError, model: type[Section], data: object) -> tuple[Problem, ...]:
    """The mistakes in ``data`` that validating it as ``model`` found, in the order of the schema."""
    details = error.errors(include_url=False)
    return tuple(
        _problem(detail["loc"], detail["type"], detail["input"], detail.get("ctx", {}), model, data)
        for detail in details
    )


def _problem(
    loc: Location, kind: str, value: object, context: Mapping[str, Any], model: type[Section], data: object
) -> Problem:
    if kind == "missing":
        return Problem(_path(loc, data), "is missing", f"it must be {_words(model, loc)}")
    if kind == "extra_forbidden":
        return _unknown_key(loc, model, data)
    if kind in (REFUSED, REFUSED_SECRET):
        key = str(context.get("key", ""))
        found = _kind_of(value) if kind == REFUSED_SECRET else _show(_descend(value, key))
        separator = "" if not key or key.startswith("[") or not loc else "."
        path = _path(loc, data, f"{separator}{key}")
        if key and _descend(value, key) is None:
            return Problem(path, "is missing", f"it must be {context['allowed']}")
        return Problem(path, f"is {found}", f"it must be {context['allowed']}")
    return Problem(_path(loc, data), f"is {_kind_of(value)}", f"it must be {_words(model, loc)}")


def _unknown_key(loc: Location, model: type[Section], data: object) -> Problem:
    key = str(loc[-1])
    section = _section_at(model, loc[:-1])
    allowed = list(section.model_fields) if section else []
    near = difflib.get_close_matches(key, allowed, n=1)
    known = f"allowed here are {', '.join(allowed)}"
    return Problem(_path(loc, data), "is an unknown key", f"did you mean {near[0]}? ({known})" if near else known)


def _path(loc: Location, data: object, tail: str = "") -> str:
    """``pools[0].idle_timeout``, and the pool's name behind it where it has one."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    text += tail
    if text.startswith("pools[") and text.count("]") and isinstance(data, Mapping):
        index = int(text[len("pools[") : text.index("]")])
        pools = data.get("pools")
        pool = pools[index] if isinstance(pools, list | tuple) and index < len(pools) else None
        name = pool.get("name") if isinstance(pool, Mapping) else None
        if isinstance(name, str) and name and not text.endswith(".name"):
            text += f" (pool {name[:LONGEST_VALUE]})"
    return text


def _field_at(model: type[Section], loc: Location) -> FieldInfo | None:
    section: type[Section] | None = model
    field: FieldInfo | None = None
    for part in loc:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part) if section else None
        section = section_of(field) if field else None
    return field


def _section_at(model: type[Section], loc: Location) -> type[Section] | None:
    if not loc:
        return model
    field = _field_at(model, loc)
    return section_of(field) if field else None


def _words(model: type[Section], loc: Location) -> str:
    field = _field_at(model, loc)
    rule = rule_of(field) if field else None
    if rule:
        return rule.words
    section = _section_at(model, loc)
    if not section:
        return "left out"
    keys = ", ".join(section.model_fields)
    many = field is not None and holds_list(field) and not isinstance(loc[-1], int)
    return f"a list of sections with the keys {keys}" if many else f"a section with the keys {keys}"


def _descend(value: object, key: str) -> object:
    """The part of a checked value that ``key`` names; the value itself when it names none."""
    for part in key.replace("[", ".").replace("]", "").split(".") if key else ():
        if not part:
            continue
        if part.isdigit() and isinstance(value, list | tuple):
            value = value[int(part)]
        elif isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Section):
            value = getattr(value, part)
    return value


def _show(value: object) -> str:
    if isinstance(value, str) and "@" in value and "://" in value:
        return "a URL with a login in it (not shown)"
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        text = json.dumps(str(value) if isinstance(value, str) else value, ensure_ascii=False)
        return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
    return _kind_of(value)


def _kind_of(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text (not shown: it may be a secret)"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return "a section" if value else "an empty section"
