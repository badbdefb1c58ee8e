"""Frozen dataclasses as compact JSON, as they lie in etcd, and back.

Fields that this version does not know are ignored, since a newer node may have written them; a field that is missing takes
its default, so a new field needs one. Anything else that does not fit is a :class:`~scaler_plugin.errors.RecordMalformed` that
names the key.

By msgspec and not by pydantic, which the configuration's schema needs: it is a tenth of its size, and this is in every sidecar.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

from scaler_plugin.errors import RecordMalformed

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def encode(value: object) -> str:
    """The value as JSON in one line; equal values give equal texts."""
    return _encoder.encode(value).decode()


def decode(kind: type[T], text: str, key: str = "") -> T:
    """The value that :func:`encode` wrote. ``key`` is named in the error."""
    hashable: Any = kind  # mypy takes no type[T] for hashable
    try:
        value: T = _decoder(hashable).decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordMalformed(
            f"{f'The value of {key}' if key else 'The stored value'} is not a valid {kind.__name__} "
            f"({_told(error)}); correct or delete it"
        ) from error
    return value


def _told(error: Exception) -> str:
    """The mistake, after its place where there is one: msgspec says ``… - at `$.slots[0].state```."""
    what, _, where = str(error).partition(" - at `$")
    where = where.strip("`.").replace("[", ".").replace("]", "")
    return f"{where}: {what}" if where else what
