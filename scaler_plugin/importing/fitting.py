"""Whether our schema takes a value that the original's file gave; if not, the sentence that says why. No value is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from scaler_plugin.config.pool_schema import PoolConfig
from scaler_plugin.config.problems import problems_of
from scaler_plugin.config.rules import Rule
from scaler_plugin.config.section import Section, rule_of, section_of

#: Stands for an image that is asked for later.
_SOME_IMAGE = "ami-12345678"


def misfit(key: str, value: Any, section: type[Section] = PoolConfig) -> str | None:
    """Why the setting ``key`` of the section cannot have the value: what it must be; ``None`` if it can."""
    field = section.model_fields[key]
    rule, inner = rule_of(field), section_of(field)
    try:
        if rule is not None:
            rule.accept(value)
        elif inner is not None:
            inner.model_validate(value)
    except PydanticCustomError as error:
        return f"{_place(key, error)} must be {_allowed(error)}"
    except ValidationError as error:
        # pydantic's own text would repeat values.
        problems = problems_of(error, inner or PoolConfig, value)
        return "; ".join(f"{key}.{problem.path} must be {_plain(problem.allowed)}" for problem in problems)
    return None


def misfit_of(rule: Rule, value: Any) -> str | None:
    """What one item of a list must be, if it is not."""
    try:
        rule.accept(value)
    except PydanticCustomError as error:
        return _allowed(error)
    return None


def misfits_together(pool: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with a pool as a whole, by key: what is missing, and values that do not go together."""
    whole = {"ami": _SOME_IMAGE, **pool}
    try:
        PoolConfig.model_validate(whole)
    except ValidationError as error:
        return {
            problem.path.partition(".")[0].partition("[")[0]: f"{problem.path} {problem.found}; {problem.allowed}"
            for problem in problems_of(error, PoolConfig, whole)
        }
    return {}


def _place(key: str, error: PydanticCustomError) -> str:
    inside = str((error.context or {}).get("key", ""))
    return f"{key}{'' if not inside or inside.startswith('[') else '.'}{inside}"


def _allowed(error: PydanticCustomError) -> str:
    return str((error.context or {})["allowed"])


def _plain(allowed: str) -> str:
    return allowed.removeprefix("it must be ")
