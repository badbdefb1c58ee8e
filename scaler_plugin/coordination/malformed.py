"""Records that can't be understood: whoever reads many passes over them, and says so once.

One bad record must not stop a cluster. What its absence means is for the reader to know: see "Records that can't be read" in
``docs/protocols.md``. ``scaler-sidecar status`` names them for as long as they are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from scaler_plugin.coordination.codec import decode
from scaler_plugin.coordination.store import Entry
from scaler_plugin.errors import RecordMalformed

T = TypeVar("T")

#: So many sentences are remembered, so that each is logged once and not in every pass; then it begins anew.
_REMEMBERED = 1000
_told: set[str] = set()


def tell_once(_entry: Entry, error: RecordMalformed) -> None:
    """One line in the log for each sentence."""
    if str(error) in _told:
        return
    if len(_told) >= _REMEMBERED:
        _told.clear()
    _told.add(str(error))
    import structlog  # noqa: PLC0415  (`status` imports this too, and must answer at once)

    structlog.get_logger(__name__).warning("record_malformed", error=str(error))


def decode_all(
    kind: type[T], entries: Iterable[Entry], on_malformed: Callable[[Entry, RecordMalformed], None] = tell_once
) -> tuple[T, ...]:
    """The records that can be understood, in the order of the entries; ``on_malformed`` gets the others."""
    records = []
    for entry in entries:
        try:
            records.append(decode(kind, entry.value, entry.key))
        except RecordMalformed as error:
            on_malformed(entry, error)
    return tuple(records)
