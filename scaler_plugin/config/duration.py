"""Durations as people write them: ``90s``, ``10m``, ``2h``, ``1d``, ``1h30m``, ``500ms``.

Guarantees: what is printed parses to the same duration. Refuses numbers without a unit, and zero: "0" has been read both
as "at once" and as "never" by users of other autoscalers, and cost them a day of idle machines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_FORM = re.compile(
    r"(?:(?P<d>[0-9]{1,12})d)?(?:(?P<h>[0-9]{1,12})h)?(?:(?P<m>[0-9]{1,12})m(?!s))?(?:(?P<s>[0-9]{1,12})s)?(?:(?P<ms>[0-9]{1,12})ms)?"
)
#: The same form for JSON schema, whose regular expressions are searched rather than matched.
JSON_PATTERN = "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"
#: Longer than any timeout a person means: a typing error rather than a wish.
LONGEST_MS = 3650 * _UNITS_MS["d"]
FORMS = "a duration with its unit, such as 90s, 10m, 2h, 1d or 1h30m"


@dataclass(frozen=True, order=True)
class Duration:
    """A length of time above zero, exact to the millisecond."""

    milliseconds: int

    @property
    def seconds(self) -> float:
        return self.milliseconds / 1000

    def __str__(self) -> str:
        unit = next(unit for unit, size in _UNITS_MS.items() if self.milliseconds % size == 0)
        return f"{self.milliseconds // _UNITS_MS[unit]}{unit}"


def parse_duration(value: object) -> Duration:
    """Read a duration. Raises ``ValueError`` with what is allowed and why."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(FORMS)
    if re.fullmatch(r"-?[0-9.]+", str(value)):
        if str(value).strip("-0.") == "":
            raise ValueError(f"{FORMS}: a bare 0 is ambiguous (at once, or never?)")
        raise ValueError(f"{FORMS}: a number alone is ambiguous (seconds, or minutes?)")
    form = _FORM.fullmatch(str(value))
    if form is None or not value:
        raise ValueError(FORMS)
    total = sum(int(count) * _UNITS_MS[unit] for unit, count in form.groupdict().items() if count)
    if total == 0:
        raise ValueError(f"{FORMS}: a duration of zero is ambiguous (at once, or never?)")
    if total > LONGEST_MS:
        raise ValueError(f"{FORMS}, and at most {Duration(LONGEST_MS)}")
    return Duration(total)
