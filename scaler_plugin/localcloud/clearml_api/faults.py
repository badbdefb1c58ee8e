"""Faults on demand: which calls shall go wrong, how, and how often. Only there when the server was told to allow it."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from scaler_plugin.localcloud.clearml_api.answers import Document


@dataclass
class Fault:
    """One rule. ``times`` and the time it lasts end it, whichever comes first; without either it stays."""

    action: str
    #: Answer with this HTTP status and sub-code instead of the real answer; 0 keeps the answer.
    status: int = 0
    subcode: int = 0
    message: str = "Injected fault"
    #: Wait before answering.
    hang_s: float = 0.0
    #: Close the connection without an answer.
    drop: bool = False
    #: Do the work first: the caller cannot know that it was done.
    after: bool = False
    times: int | None = None
    until: float | None = None
    hits: int = 0

    def applies(self, action: str, now: float) -> bool:
        """Whether this call shall go wrong."""
        if self.times is not None and self.hits >= self.times:
            return False
        if self.until is not None and now >= self.until:
            return False
        return re.search(self.action, action) is not None


#: What a rule may say, with its type. ``seconds`` becomes ``until``.
FIELDS: dict[str, tuple[type, ...]] = {
    "action": (str,),
    "status": (int,),
    "subcode": (int,),
    "message": (str,),
    "hang_s": (int, float),
    "drop": (bool,),
    "after": (bool,),
    "times": (int,),
    "seconds": (int, float),
}


def parse_fault(data: Any) -> Fault:
    """A rule from its JSON. Raises ValueError with a sentence when it is none."""
    if not isinstance(data, dict) or "action" not in data:
        raise ValueError('A fault is an object with at least "action", a regular expression for the calls it hits.')
    for name, value in data.items():
        if name not in FIELDS:
            raise ValueError(f'Unknown field "{name}" in a fault; known are {", ".join(FIELDS)}.')
        if not isinstance(value, FIELDS[name]):
            raise ValueError(f'The fault\'s field "{name}" cannot be {value!r}.')
    try:
        re.compile(data["action"])
    except re.error as error:
        raise ValueError(f'The fault\'s "action" is no regular expression: {error}.') from error
    rest = {name: value for name, value in data.items() if name != "seconds"}
    until = time.monotonic() + data["seconds"] if "seconds" in data else None
    return Fault(**rest, until=until)


@dataclass
class Faults:
    """The rules in force; the first that applies to a call is used."""

    rules: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> None:
        """Put a rule in force."""
        with self._lock:
            self.rules.append(fault)

    def clear(self) -> None:
        """Back to normal."""
        with self._lock:
            self.rules.clear()

    def hit(self, action: str) -> Fault | None:
        """The rule for this call, counted as used."""
        with self._lock:
            for fault in self.rules:
                if fault.applies(action, time.monotonic()):
                    fault.hits += 1
                    return fault
        return None

    def listing(self) -> list[Document]:
        """The rules with the number of calls each has hit."""
        names = ("action", "status", "subcode", "hang_s", "drop", "after", "times", "hits")
        with self._lock:
            return [{name: getattr(fault, name) for name in names} for fault in self.rules]
