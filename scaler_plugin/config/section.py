"""What a section of the configuration is: unknown keys are errors, nothing changes after loading, fields can be looked at."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from scaler_plugin.config.rules import Rule


class Section(BaseModel):
    # Building is deferred because pydantic builds a model again inside every model that holds it; only the outermost is used.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)


def rule_of(field: FieldInfo) -> Rule | None:
    """The rule in a field's annotation; ``None`` for a field that holds a section or a list of them."""
    return next((entry for entry in field.metadata if isinstance(entry, Rule)), None)


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, alone, optional or in a list."""
    candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return next((entry for entry in candidates if isinstance(entry, type) and issubclass(entry, Section)), None)


def holds_list(field: FieldInfo) -> bool:
    """Whether a field that holds a section holds a list of them."""
    return repr(field.annotation).startswith("tuple")
