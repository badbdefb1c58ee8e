"""What became of each key of the imported file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Outcome(str, Enum):
    TRANSLATED = "translated"
    NOT_NEEDED = "not needed"
    NOT_TRANSLATED = "not translated"
    SECRET = "secret"


@dataclass(frozen=True)
class Line:
    """``text``: what it has become, or why it has not and what to do."""

    key: str
    outcome: Outcome
    text: str


@dataclass
class Report:
    """Collects a line for each key. Values of keys that nobody asked for never get in: they may be secrets."""

    lines: list[Line] = field(default_factory=list)

    def translated(self, key: str, text: str) -> None:
        self.lines.append(Line(key, Outcome.TRANSLATED, text))

    def not_needed(self, key: str, text: str) -> None:
        self.lines.append(Line(key, Outcome.NOT_NEEDED, text))

    def not_translated(self, key: str, text: str) -> None:
        self.lines.append(Line(key, Outcome.NOT_TRANSLATED, text))

    def withdraw(self, keys: Sequence[str], text: str) -> None:
        """What was translated from these keys was of no use after all."""
        withdrawn = [line for line in self.lines if line.key in keys and line.outcome is Outcome.TRANSLATED]
        self.lines = [line for line in self.lines if line not in withdrawn]
        for key in dict.fromkeys(line.key for line in withdrawn) or keys[:1]:
            self.not_translated(key, text)

    def forget(self, keys: Collection[str]) -> None:
        """What these keys have become is gone with the whole that they belonged to. Reasons why one was refused stay."""
        gone = (Outcome.TRANSLATED, Outcome.NOT_NEEDED)
        self.lines = [line for line in self.lines if line.key not in keys or line.outcome not in gone]

    def secret(self, key: str, text: str) -> None:
        self.lines.append(Line(key, Outcome.SECRET, text))


class Part:
    """A section of the file that knows which of its keys have been looked at, so that none is passed over in silence."""

    def __init__(self, path: str, data: Mapping[str, Any], report: Report) -> None:
        self.path = path
        self.report = report
        self._data = dict(data)
        self._taken: set[str] = set()

    def key(self, name: str) -> str:
        return f"{self.path}.{name}"

    def take(self, name: str) -> Any:
        """The key's value, ``None`` if it is missing or empty; whoever takes it writes its line."""
        self._taken.add(name)
        value = self._data.get(name)
        return None if value in ("", [], {}) else value

    def has(self, name: str) -> bool:
        return name in self._data

    def empty(self, name: str) -> None:
        """The line of a key that stands in the file without a value."""
        if name in self._data:
            self.report.not_needed(self.key(name), "it is empty")

    def close(self) -> None:
        """Write a line for each key that nobody took."""
        for name in self._data:
            if name not in self._taken:
                self.report.not_translated(
                    self.key(str(name)), "this key is not known here; look into docs/configuration.md for what it did"
                )
