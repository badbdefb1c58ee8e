"""Answers of the server that are not what its API promises: another version's, a proxy's, or a broken document's.

One item of a list that can't be understood is passed over, with one line in the log; where a field of it is missing that speaks for
or against a running task, the doubt keeps the task alive (:mod:`scaler_plugin.clearml_server.answers`). Anything else that does
not fit makes the call fail as one without an answer. So nothing but our own errors leaves the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

from scaler_plugin.errors import TaskServerUnavailable

T = TypeVar("T")

#: What code that reads a document raises when the document is another one.
ODD = (KeyError, IndexError, TypeError, ValueError, AttributeError)


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Within this, a document that is not as expected is an answer that was not understood."""
    try:
        yield
    except ODD as error:
        raise TaskServerUnavailable(
            f"The ClearML server's answer for {what} is not understood ({_words(error)}). The next pass tries again; if it "
            "goes on, look for a proxy in between, or for a server whose version is not supported."
        ) from error


def each_understood(items: Iterable[Any], kind: str, read: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
    """What ``read`` makes of each item; those it can't read are passed over."""
    for item in items:
        try:
            value = read(item)
        except ODD as error:
            name = item.get("id") or item.get("name") if isinstance(item, Mapping) else None
            _tell_once(
                f"{kind} {name or 'without an id'} in the ClearML server's answer is not understood ({_words(error)})"
            )
            continue
        yield value


@lru_cache(maxsize=1000)
def _tell_once(sentence: str) -> None:
    """Log it, and not again with every call."""
    import structlog  # noqa: PLC0415  (a sidecar that does not lead makes no call)

    structlog.get_logger(__name__).warning("odd_answer", error=sentence)


def _words(error: Exception) -> str:
    """No part of the answer: it may hold what must not be in a log."""
    return f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else type(error).__name__
