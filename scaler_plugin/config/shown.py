"""The configuration as people read it: YAML in the schema's order, scripts as blocks, what looks like a secret in them masked.

What is shown can be edited and pushed again, except where something was masked: the loader refuses the mark.
"""

from __future__ import annotations

from typing import Any

import yaml

from scaler_plugin.config.masking import mask_secrets
from scaler_plugin.config.rules import FreeText
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.section import Section, rule_of


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, and writes several lines as a block."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def yaml_text(data: Any) -> str:
    """Plain data as YAML for people."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)


def shown_yaml(config: ScalerConfig) -> str:
    """What was set, without the defaults."""
    return yaml_text(_masked(config, config.model_dump(mode="json", exclude_unset=True)))


def _masked(section: Section, data: dict[str, Any]) -> dict[str, Any]:
    """The section's plain data, and that of the sections within, with free text masked."""
    masked: dict[str, Any] = {}
    for name, plain in data.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            masked[name] = _masked(value, plain)
        elif isinstance(value, tuple):
            pairs = zip(value, plain, strict=True)
            masked[name] = [_masked(inner, item) if isinstance(inner, Section) else item for inner, item in pairs]
        elif value and isinstance(rule_of(type(section).model_fields[name]), FreeText):
            masked[name] = mask_secrets(plain)
        else:
            masked[name] = plain
    return masked
