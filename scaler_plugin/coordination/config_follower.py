"""Following the configuration in etcd, whatever its reader makes of it.

Guarantees: a follower always has the last good configuration: a malformed one in etcd (written by other means, or by a newer
version) changes nothing and is named in ``problem``; each text is read once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Entry, Store
from scaler_plugin.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Followed(Generic[T]):
    """``config`` is what the reader made of ``text``; ``revision`` the key's mod revision in etcd; ``where`` names both."""

    config: T
    revision: int
    text: str
    where: str


class ConfigFollower(Generic[T]):
    """The newest valid configuration, looked for anew at every call of :meth:`current`.

    ``read(text, where)`` raises ``ConfigError``, in a sentence that begins with ``where``, for a text that is not valid.
    """

    def __init__(self, store: Store, keys: Keys, read: Callable[[str, str], T]) -> None:
        self._store = store
        self._keys = keys
        self._read_text = read
        # What was read last, good or bad. The text too: in an etcd that was set up anew, revisions begin again.
        self._seen: tuple[int, str] | None = None
        self._good: Followed[T] | None = None
        self._problem: str | None = None

    @property
    def last_good(self) -> Followed[T] | None:
        """What was read last and was valid, without asking etcd."""
        return self._good

    @property
    def problem(self) -> str | None:
        """Why the last good configuration is not the one in etcd, as a sentence; ``None`` when it is."""
        return self._problem

    def current(self) -> T:
        """Read etcd (one key) and return the newest valid configuration.

        Raises ``StoreError`` when etcd cannot be read, and ``ConfigError`` while there has been no valid configuration yet.
        """
        entry = self._store.get(self._keys.config)
        seen = (entry.mod_revision, entry.value) if entry else (0, "")
        if seen != self._seen:
            self._read(entry)
            self._seen = seen
        if self._good is None:
            raise ConfigError(self._problem or "")
        return self._good.config

    def _read(self, entry: Entry | None) -> None:
        if entry is None:
            self._problem = (
                f"No configuration is published for cluster {self._keys.cluster} ({self._keys.config});"
                " push one with `scaler-sidecar config push scaler.yaml`."
            )
            return
        where = place_of(entry)
        try:
            config = self._read_text(entry.value, where)
        except ConfigError as error:
            self._problem = str(error)
        else:
            self._good, self._problem = Followed(config, entry.mod_revision, entry.value, where), None


def place_of(entry: Entry) -> str:
    return f"The configuration in etcd ({entry.key}, revision {entry.mod_revision})"
