"""What every ``get_all`` shares: filters, order, paging, and the choice of fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from scaler_plugin.localcloud.clearml_api.answers import ApiError, Document

#: The server answers at most this many documents to one call.
MAX_PAGE = 500

#: Request keys that are compared with the document's field of the same name.
FILTERS = ("id", "user", "project", "type", "status", "parent", "execution.queue", "last_worker", "company")
RANGES = ("created", "started", "completed", "status_changed", "last_update", "last_change")


def value_at(document: Document, path: str) -> Any:
    """The value of a dotted path, or None."""
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def select(data: Document, documents: Iterable[Document], known_fields: frozenset[str]) -> list[Document]:
    """The documents that match the request, ordered and paged. Raises for unknown fields and bad pages."""
    for field in data.get("only_fields") or ():
        if field.split(".")[0] not in known_fields:
            raise ApiError(
                400,
                14,
                "Lookup error (probably an invalid field name or unsupported nested field): "
                f'err=Cannot resolve field "{field}"',
            )
    tests = _tests(data)
    found = [document for document in documents if all(test(document) for test in tests)]
    for field in reversed(_as_list(data.get("order_by"))):
        path = field.lstrip("-")
        found.sort(key=lambda document: _sort_key(value_at(document, path)), reverse=field.startswith("-"))
    return _page(data, found)


def _tests(data: Document) -> list[Callable[[Document], bool]]:
    tests: list[Callable[[Document], bool]] = []
    for key in FILTERS:
        if wanted := _as_list(data.get(key)):
            tests.append(lambda document, key=key, wanted=set(wanted): value_at(document, key) in wanted)  # type: ignore[misc]
    for key in ("tags", "system_tags"):
        if wanted := _as_list(data.get(key)):
            tests.append(lambda document, key=key, wanted=wanted: _tags_match(document.get(key, []), wanted))  # type: ignore[misc]
    for key in RANGES:
        for condition in _as_list(data.get(key)):
            tests.append(lambda document, key=key, condition=condition: _in_range(document.get(key), condition))  # type: ignore[misc]
    if data.get("name"):
        pattern = _regex(data["name"])
        tests.append(lambda document: bool(pattern.search(document.get("name", ""))))
    any_of = data.get("_any_")
    if isinstance(any_of, dict) and any_of.get("pattern"):
        fields, regex = any_of.get("fields") or [], _regex(any_of["pattern"])
        tests.append(lambda document: any(regex.search(str(value_at(document, field) or "")) for field in fields))
    return tests


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ApiError(400, 12, f"Validation error (invalid regular expression: {error})") from error


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | set) else [value]


def _tags_match(tags: list[str], wanted: list[str]) -> bool:
    """Any of the plain values, all of those after ``__$all``, none of those after ``__$not`` or with a minus."""
    any_of: set[str] = set()
    all_of: set[str] = set()
    none_of: set[str] = set()
    mode, negated = any_of, False
    for tag in wanted:
        if tag in ("__$all", "__$and"):
            mode = all_of
        elif tag in ("__$any", "__$or"):
            mode = any_of
        elif tag == "__$not":
            negated = True
        else:
            (none_of if negated or tag.startswith("-") else mode).add(tag if negated else tag.lstrip("-"))
            negated = False
    have = set(tags)
    return not (none_of & have) and all_of <= have and (not any_of or bool(any_of & have))


def _in_range(value: str | None, condition: str) -> bool:
    """``>=2026-…``, ``<2026-…`` and the like; dates are text of one form, so they compare as text."""
    match = re.fullmatch(r"(>=|<=|>|<)?(.+)", str(condition))
    if value is None or match is None:
        return False
    operator, limit = match.groups()
    value, limit = value[:23], limit[:23]
    return {
        ">=": value >= limit,
        "<=": value <= limit,
        ">": value > limit,
        "<": value < limit,
        None: value == limit,
    }[operator]


def _sort_key(value: Any) -> tuple[int, Any]:
    if value is None:
        return 0, ""
    return (1, value) if isinstance(value, int | float) else (2, str(value))


def _page(data: Document, found: list[Document]) -> list[Document]:
    if data.get("scroll_id") or data.get("size"):
        start = scroll_position(data)
        return found[start : start + min(int(data.get("size") or MAX_PAGE), MAX_PAGE)]
    page, size = int(data.get("page") or 0), int(data.get("page_size") or MAX_PAGE)
    if page < 0:
        raise ApiError(400, 12, "Validation error (page must be >=0)", field="page")
    if size < 1:
        raise ApiError(400, 12, "Validation error (page_size must be >0)", field="page_size")
    size = min(size, MAX_PAGE)
    return found[page * size : (page + 1) * size]


def scroll_position(data: Document) -> int:
    """Where a scroll goes on: its id is the position, so nothing must be remembered between calls."""
    text = str(data.get("scroll_id") or "at-0").rpartition("-")[2]
    return int(text) if text.isdigit() else 0


def project_fields(document: Document, only: list[str] | None) -> Document:
    """The chosen (dotted) fields; a missing leaf leaves its parent behind as an empty object, as on the server."""
    if not only:
        return document
    answer: Document = {}
    for path in _as_list(only):
        source: Any = document
        target = answer
        parts = path.split(".")
        for part in parts[:-1]:
            source = source.get(part) if isinstance(source, dict) else None
            if not isinstance(source, dict):
                break
            target = target.setdefault(part, {})
        else:
            if isinstance(source, dict) and parts[-1] in source:
                target[parts[-1]] = source[parts[-1]]
    return answer
