"""The configuration as people read it: YAML in the schema's order, scripts as blocks, what looks like a secret in them masked.

What is shown can be edited and pushed again, except where something was masked: the loader refuses the mark.
"""

from __future__ import annotations

from typing import Any

import yaml

from scaler_plugin.config.masking import mask_secrets
from scaler_plugin.config.pool_schema import PoolConfig
from scaler_plugin.config.rules import FreeText
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.section import rule_of


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
    data: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    free = [name for name, field in PoolConfig.model_fields.items() if isinstance(rule_of(field), FreeText)]
    for pool in data["pools"]:
        pool.update({name: mask_secrets(pool[name]) for name in free if pool.get(name)})
    return yaml_text(data)
