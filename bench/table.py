"""The table that the measurements fill: what, what is promised, what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

WIDTHS = (58, 30)


@dataclass(frozen=True)
class Row:
    """``limit`` and ``worst`` are in one unit and decide ``kept``; ``measured`` is for people."""

    what: str
    promised: str
    measured: str
    limit: float
    worst: float

    @property
    def kept(self) -> bool:
        return self.worst <= self.limit

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "kept": self.kept}


def seconds(values: Sequence[float]) -> str:
    """Median and worst of several trials."""
    return f"median {statistics.median(values):.2f} s, worst {max(values):.2f} s of {len(values)}"


def heading() -> str:
    line = _line("what", "promised", "measured")
    return f"{line}\n{'-' * (sum(WIDTHS) + 40)}"


def shown(row: Row) -> str:
    return _line(row.what, row.promised, f"{row.measured}{'' if row.kept else '   NOT KEPT'}")


def _line(what: str, promised: str, measured: str) -> str:
    return f"{what:<{WIDTHS[0]}}{promised:<{WIDTHS[1]}}{measured}"
