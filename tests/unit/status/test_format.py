"""The JSON format: its document names every field, its published schema is the code's, and reports keep to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from scaler_plugin.status.as_json import as_json, json_schema
from scaler_plugin.status.report import StatusReport

from .made_up import large_cluster, launch, node, report, view

DOCS = Path(__file__).parents[3] / "docs"


def field_paths(schema: dict[str, Any], part: dict[str, Any], path: str = "") -> Iterator[str]:
    for alternative in (part, *part.get("anyOf", ())):
        shape = alternative
        if "$ref" in shape:
            shape = schema["$defs"][shape["$ref"].rpartition("/")[2]]
        if shape.get("type") == "array":
            yield path + "[]"
            yield from field_paths(schema, shape["items"], path + "[]")
        for name, inner in shape.get("properties", {}).items():
            here = f"{path}.{name}" if path else name
            is_list = inner.get("type") == "array"
            if not is_list:
                yield here
            yield from field_paths(schema, inner, here)


def test_the_document_names_every_field_and_no_other() -> None:
    schema = json_schema()
    documented = re.findall(r"^\| `([a-z_.\[\]]+)` \|", (DOCS / "status.md").read_text(), flags=re.MULTILINE)
    assert sorted(documented) == sorted(set(field_paths(schema, schema)))


def test_the_published_schema_is_that_of_the_code() -> None:
    assert json.loads((DOCS / "status.schema.json").read_text()) == json_schema()


@pytest.mark.parametrize(
    "made",
    [
        report(leader=None, config=False),
        report(leader=None),
        report(view(backlog_known=False)),
        report(view(term=3), node(1), launch(error="no")),
        report(*large_cluster(60)),
    ],
    ids=["nothing", "configured", "blind", "old", "large"],
)
def test_reports_keep_to_the_published_schema_with_every_field_there(made: StatusReport) -> None:
    schema = json.loads((DOCS / "status.schema.json").read_text())
    jsonschema.validate(json.loads(as_json(made)), schema)
