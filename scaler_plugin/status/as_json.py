"""The report as JSON, and the schema of that JSON, both from the report's own types (see ``docs/status.md``)."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from scaler_plugin.status.report import StatusReport


def as_json(report: StatusReport) -> str:
    """One JSON object; every field is always there, ``null`` where nothing is known."""
    return TypeAdapter(StatusReport).dump_json(report, indent=2).decode()


def json_schema() -> dict[str, Any]:
    """What :func:`as_json` writes, as JSON schema. Readers must allow fields that a later version adds."""
    schema: dict[str, Any] = _bare(TypeAdapter(StatusReport).json_schema(mode="serialization"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _bare(part: Any) -> Any:
    """Without the titles that pydantic makes up and the docstrings, which are for this package's readers."""
    if isinstance(part, dict):
        return {key: _bare(value) for key, value in part.items() if key not in ("title", "description")}
    return [_bare(item) for item in part] if isinstance(part, list) else part
