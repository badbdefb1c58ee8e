"""The file of ClearML's autoscaler in each of its forms, as one: ``hyper_params`` and ``configurations``.

Forms: ``aws_autoscaler.yaml`` as its wizard writes it (JSON is YAML, too), and the JSON of an autoscaler task, whose settings
stand in ``hyperparams`` and whose resources are a text in ``configuration``. Nothing of the file is repeated in an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaler_plugin.config.strict_yaml import read_yaml
from scaler_plugin.errors import ConfigError

#: Where the SDK keeps what was given to ``Task.connect`` without a name.
_SECTIONS = ("General", "Args", "hyper_params")


@dataclass(frozen=True)
class Source:
    """``path`` of each part is where it stood in the file, for the report."""

    hyper_params: Mapping[str, Any]
    configurations: Mapping[str, Any]
    others: tuple[str, ...] = ()
    hyper_params_path: str = "hyper_params"
    configurations_path: str = "configurations"


def read_source(path: Path) -> Source:
    """Raises ``ConfigError`` when the file cannot be read or is no configuration of the autoscaler."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}; check the name and the permissions.") from None
    data = read_yaml(text, str(path))
    if isinstance(data, Mapping):
        for wrapped in ("data", "task"):
            if isinstance(data.get(wrapped), Mapping) and "hyper_params" not in data:
                data = data[wrapped]
        if isinstance(data.get("hyperparams"), Mapping):
            return _of_task(data, path)
        if isinstance(data.get("configurations"), Mapping) or isinstance(data.get("hyper_params"), Mapping):
            others = tuple(str(key) for key in data if key not in ("hyper_params", "configurations"))
            return Source(_mapping(data, "hyper_params", path), _mapping(data, "configurations", path), others)
    raise ConfigError(
        f"{path} is no configuration of ClearML's AWS autoscaler: it has neither `hyper_params` and `configurations` "
        "(aws_autoscaler.yaml) nor `hyperparams` and `configuration` (the JSON of its task)."
    )


def _mapping(data: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: `{key}` must be a section of keys and values.")
    return value


def _of_task(task: Mapping[str, Any], path: Path) -> Source:
    parameters, configurations = task["hyperparams"], task.get("configuration") or {}
    section = next((name for name in _SECTIONS if name in parameters), None)
    if section is None or not isinstance(configurations, Mapping) or not configurations:
        raise ConfigError(
            f"{path} is a task, but not one of the autoscaler: its hyperparameters lack General, or it has no configuration."
        )
    settings = {name: _typed(_value(entry)) for name, entry in parameters[section].items()}
    name = "General" if "General" in configurations else next(iter(configurations))
    others = tuple(
        [f"hyperparams.{other}" for other in parameters if other != section]
        + [f"configuration.{other}" for other in configurations if other != name]
    )
    text = str(_value(configurations[name]))
    return Source(settings, _parsed(text, path), others, f"hyperparams.{section}", f"configuration.{name}")


def _value(entry: Any) -> Any:
    return entry.get("value", "") if isinstance(entry, Mapping) else entry


def _typed(value: Any) -> Any:
    """A task keeps every hyperparameter as text."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value in ("", "None"):
        return None
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return value


def _parsed(text: str, path: Path) -> Mapping[str, Any]:
    """A task's configuration: the SDK writes HOCON or JSON, people paste YAML."""
    try:
        data = read_yaml(text, str(path))
    except ConfigError:
        data = None
    if not isinstance(data, Mapping) or "queues" not in data:
        from clearml.utilities.pyhocon import ConfigFactory  # noqa: PLC0415  (loads the SDK)

        try:
            parse: Any = ConfigFactory.parse_string  # its package has no types
            data = parse(text).as_plain_ordered_dict()
        except Exception:  # its parser raises several kinds, with the text in them
            data = None
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: the task's configuration is neither HOCON, JSON nor YAML.")
    return data
