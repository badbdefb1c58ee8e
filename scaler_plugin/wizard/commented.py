"""A configuration as YAML that explains itself: the schema's own description above each key."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.section import Section, holds_list, section_of
from scaler_plugin.config.shown import yaml_text

_WIDTH = 110

_HEAD = """\
Written by `scaler-sidecar init`. Whatever is not here has a default: docs/configuration.md has every key.
Secrets are references (env:, file:, ssm:, secretsmanager:), never the secret itself.

  scaler-sidecar config validate scaler.yaml    look for mistakes
  scaler-sidecar config push scaler.yaml        publish it; all nodes follow
"""


def commented_yaml(data: Mapping[str, Any]) -> str:
    """``data`` is a configuration's plain data; keys come in the schema's order."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in _HEAD.splitlines())
    return head + "\n" + "\n".join(_section(ScalerConfig, data, 0, blank=True)).rstrip() + "\n"


def _section(model: type[Section], data: Mapping[str, Any], depth: int, blank: bool = False) -> Iterator[str]:
    pad = "  " * depth
    for key, field in model.model_fields.items():
        if key not in data:
            continue
        for line in textwrap.wrap(_plain(field.description or ""), _WIDTH - len(pad)):
            yield f"{pad}# {line}"
        value, inner = data[key], section_of(field)
        if inner is None or not value:
            yield from (f"{pad}{line}" for line in _dumped(key, value).splitlines())
        elif holds_list(field):
            yield f"{pad}{key}:"
            for number, item in enumerate(value):
                if number:
                    yield ""
                lines = list(_section(inner, item, depth + 2))
                # The dash belongs to the item's first line that is no comment.
                first = next(index for index, line in enumerate(lines) if not line.lstrip().startswith("#"))
                indent = len(pad) + 2
                lines[first] = f"{lines[first][:indent]}-{lines[first][indent + 1 :]}"
                yield from lines
        else:
            yield f"{pad}{key}:"
            yield from _section(inner, value, depth + 1)
        if blank:
            yield ""


def _dumped(key: str, value: Any) -> str:
    """One key. A list that fits stands on one line, as people write it."""
    if isinstance(value, list):
        one_line = f"{key}: {yaml.safe_dump(value, default_flow_style=True, width=1000).strip()}"
        if len(one_line) < _WIDTH:
            return one_line
    return yaml_text({key: value}).rstrip()


def _plain(description: str) -> str:
    """Without what only means something on the reference page: links."""
    return description.split(" See [", maxsplit=1)[0].replace("`", "")
