"""Reads the configuration: ``scaler.yaml`` from a file, YAML or JSON from a text; and writes its canonical JSON.

Guarantees: a :class:`ScalerConfig` comes back only if every rule holds, otherwise :class:`InvalidConfig` with a sentence per
mistake; ``parse_json(dump_json(config)) == config``. Keys that stand twice are mistakes: YAML and JSON readers would silently
keep the last.

PyYAML is imported only to read YAML: what nodes read from etcd is JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scaler_plugin.config.problems import InvalidConfig, Problem, problems_of
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.errors import ConfigError

#: etcd refuses requests above 1.5 MiB; a configuration near that is a mistake.
LONGEST = 1_000_000


def load_file(path: str | Path) -> ScalerConfig:
    """Read ``scaler.yaml`` (a ``.json`` file is YAML too). Raises ``ConfigError`` when it cannot be read or is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} cannot be read: it is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; check the name and the permissions.") from None
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, where: str = "The configuration") -> ScalerConfig:
    """Read the configuration from YAML. ``where`` begins the error's sentence."""
    _refuse_long(text, where)
    from scaler_plugin.config.strict_yaml import read_yaml  # noqa: PLC0415

    return _validate(read_yaml(text, where), where)


def parse_json(text: str, where: str = "The configuration") -> ScalerConfig:
    """Read the configuration from JSON, as :func:`dump_json` writes it."""
    _refuse_long(text, where)
    repeated: list[str] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend(name for name in seen if names.count(name) > 1)
        return seen

    try:
        data = json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{where} is not valid JSON: {error.msg}, in line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise ConfigError(f"{where} is not valid JSON for a configuration: it is nested too deeply.") from None
    if repeated:
        raise InvalidConfig(where, [Problem(name, "stands twice in one section", "keep one") for name in repeated])
    return _validate(data, where)


def dump_json(config: ScalerConfig) -> str:
    """The canonical form, as stored in etcd: what was set, in the schema's order. Defaults stay defaults, so that a node whose
    version lacks a setting can read every configuration that does not use it."""
    return config.model_dump_json(exclude_unset=True)


def _refuse_long(text: str, where: str) -> None:
    if len(text) > LONGEST:
        raise ConfigError(
            f"{where} has {len(text)} characters, and at most {LONGEST} fit into etcd; move scripts into the image."
        )


def _validate(data: object, where: str) -> ScalerConfig:
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must be a mapping of keys to values, beginning with `cluster:` and `pools:`.")
    try:
        return ScalerConfig.model_validate(data)
    except ValidationError as error:
        # Without the chain: pydantic's own text repeats values.
        raise InvalidConfig(where, problems_of(error, ScalerConfig, data)) from None
