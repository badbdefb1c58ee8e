"""YAML as the configuration needs it: plain data, no key twice, and no piece of the file repeated in an error."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from scaler_plugin.config.problems import InvalidConfig, Problem
from scaler_plugin.errors import ConfigError

# The C parser is many times faster, and part of PyYAML's wheels, yet optional.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_Loader):  # type: ignore[misc]
    """Collects keys that stand twice; a plain loader would keep the last."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeated: list[Problem] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            # "<<" merges are resolved before this; their keys may repeat, by YAML's own rule the explicit one wins.
            if isinstance(key, yaml.ScalarNode) and key.start_mark.line is not None:
                line = key.start_mark.line + 1
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    first = seen[key.value]
                    self.repeated.append(Problem(key.value, f"stands twice, in lines {first} and {line}", "keep one"))
                seen.setdefault(key.value, line)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(text: str, where: str) -> object:
    """The data in the text. Raises ``ConfigError`` with line and column, but without the line: it may hold a secret."""
    loader = _StrictLoader(text)
    try:
        data = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {_reason(error)}.") from None
    except RecursionError:
        raise ConfigError(f"{where} is not valid YAML for a configuration: it is nested too deeply.") from None
    finally:
        loader.dispose()
    if loader.repeated:
        raise InvalidConfig(where, loader.repeated)
    return data


def _reason(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return "it holds characters that YAML does not allow"
    mark = error.problem_mark
    place = f", in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if isinstance(error, yaml.composer.ComposerError):
        return f"an alias or a second document where none is expected (quote a text that begins with *){place}"
    if isinstance(error, yaml.constructor.ConstructorError):
        return f"a tag or key that is not plain data (quote a text that begins with !){place}"
    return f"{error.problem}{place}"
