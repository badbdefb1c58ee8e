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
    return TypeAdapter(StatusReport).json_schema(mode="serialization")
