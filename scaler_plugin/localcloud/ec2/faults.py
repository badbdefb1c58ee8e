"""Faults that a test can order: what goes wrong, on which calls, how often or for how long."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from threading import Lock
from typing import Any

from scaler_plugin.errors import ConfigError
from scaler_plugin.localcloud.ec2.calls import Answer, error


class Kind(str, Enum):
    ERROR = "error"  # answer with `code`, `status`, `message`; nothing is done
    THROTTLE = "throttle"  # 503 RequestLimitExceeded
    NO_CAPACITY = (
        "no_capacity"  # RunInstances: at most `available` instances, InsufficientInstanceCapacity below MinCount
    )
    HANG = "hang"  # say nothing for `hang_s`, then cut the connection; nothing is done
    DROP_AFTER = "drop_after"  # do the work, say nothing for `hang_s`, then cut the connection
    STALE = "stale"  # describe calls show the instances as they were `lag_s` seconds ago


#: What boto3 would take for granted of a hanging service: longer than any client's patience in tests.
DEFAULT_HANG_S = 60.0


@dataclass(frozen=True)
class Fault:
    """``match`` compares parameters of the call; ``zone`` and ``market`` are derived for RunInstances. ``times`` and
    ``seconds`` limit it; with neither it lasts until the faults are cleared."""

    kind: Kind
    action: str
    match: dict[str, str] = field(default_factory=dict)
    times: int | None = None
    seconds: float | None = None
    code: str = "InternalError"
    status: int = 500
    message: str = "An internal error has occurred (injected)"
    hang_s: float = DEFAULT_HANG_S
    lag_s: float = 0.0
    available: int = 0
    until: float | None = None

    @classmethod
    def from_json(cls, value: dict[str, Any], now: float) -> Fault:
        unknown = set(value) - set(cls.__dataclass_fields__) | ({"until"} & set(value))
        kinds = [kind.value for kind in Kind]
        if unknown or value.get("kind") not in kinds or not value.get("action"):
            raise ConfigError(
                f"The fault {value} cannot be injected: give an `action`, a `kind` out of {', '.join(kinds)}, "
                f"and of the rest only {', '.join(sorted(set(cls.__dataclass_fields__) - {'until'}))}."
            )
        fault = cls(**{**value, "kind": Kind(value["kind"])})
        return replace(fault, until=None if fault.seconds is None else now + fault.seconds)

    def applies(self, action: str, traits: dict[str, str], now: float) -> bool:
        spent = self.times == 0 or (self.until is not None and now >= self.until)
        return not spent and self.action in (action, "*") and all(traits.get(k) == v for k, v in self.match.items())

    @property
    def answer(self) -> Answer:
        if self.kind is Kind.THROTTLE:
            return error("RequestLimitExceeded", "Request limit exceeded.", 503)
        return error(self.code, self.message, self.status)


class Faults:
    """The faults in force. They live in memory only: a restarted double is a healthy one."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = Lock()

    def add(self, faults: list[Fault]) -> None:
        with self._lock:
            self._faults += faults

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def listed(self) -> list[Fault]:
        with self._lock:
            return list(self._faults)

    def take(self, action: str, traits: dict[str, str], now: float) -> Fault | None:
        """The first fault that applies to this call, counted as used once more."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.applies(action, traits, now):
                    if fault.times is not None:
                        self._faults[index] = replace(fault, times=fault.times - 1)
                    return fault
        return None
