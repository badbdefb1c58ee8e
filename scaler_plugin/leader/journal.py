"""Writes the leader's acts to the cluster's event log, where ``status`` shows them."""

from __future__ import annotations

import structlog

from scaler_plugin.coordination.events import Event, record
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import StoreError

log = structlog.get_logger(__name__)


class Journal:
    def __init__(self, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock

    def record(self, kind: str, about: str, sentence: str, detail: str = "") -> None:
        """Add an event. It is a trace for people, so a failure to write it stops nothing."""
        try:
            record(self._store, self._keys, Event(self._clock.now(), kind, about, sentence, detail))
        except StoreError as error:
            log.warning("event_not_recorded", kind=kind, about=about, error=str(error))
