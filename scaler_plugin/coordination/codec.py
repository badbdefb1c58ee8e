"""Frozen dataclasses as compact JSON, as they lie in etcd, and back.

Fields that this version does not know are ignored, since a newer node may have written them; a field that is missing takes
its default, so a new field needs one. Anything else that does not fit is a :class:`~scaler_plugin.errors.StoreError` that
names the key.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from scaler_plugin.errors import StoreError

T = TypeVar("T")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def encode(value: object) -> str:
    """The value as JSON in one line; equal values give equal texts."""
    kind: Any = type(value)  # mypy takes no type[object] for hashable
    return _adapter(kind).dump_json(value).decode()


def decode(kind: type[T], text: str, key: str = "") -> T:
    """The value that :func:`encode` wrote. ``key`` is named in the error."""
    hashable: Any = kind
    try:
        value: T = _adapter(hashable).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"{f'the value of {key}' if key else 'the stored value'} is not a valid {kind.__name__} "
            f"({f'{where}: ' if where else ''}{first['msg']}); correct or delete it"
        ) from error
    return value
