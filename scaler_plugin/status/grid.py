"""Tables that never wrap: of several layouts, from rich to narrow, the first that fits the width is taken.

Only if not even the narrowest fits are its cells cut. (A table of rich shrinks or wraps columns by itself, which
breaks ids that people copy, and takes seconds for thousands of rows.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from scaler_plugin.status.wording import plain

_INDENT = 2
#: The least a column is cut to.
_SHORTEST = 3


@dataclass(frozen=True)
class Column:
    """``key`` finds the cell in a row; ``emphasis`` maps a cell's first word to a style, for those who see colours."""

    key: str
    title: str
    right: bool = False
    emphasis: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Note:
    """A sentence between rows that belongs to no column; it is wrapped under its own beginning."""

    text: str
    style: str = "dim"
    indent: int = _INDENT


@dataclass(frozen=True)
class Layout:
    """``gap`` is the number of spaces between columns."""

    columns: Sequence[Column]
    gap: int = 2


Row: TypeAlias = Mapping[str, str]


def table(title: str, layouts: Sequence[Layout], rows: Sequence[Row | Note], width: int) -> Iterator[Text]:
    """The table's lines. Its title stands over the first column; columns without any content are left out."""
    cells = [row for row in rows if not isinstance(row, Note)]
    shape = _fitting(title, layouts, cells, width)
    yield shape.headings(title)
    for row in rows:
        if isinstance(row, Note):
            yield from paragraph(row.text, width, indent=" " * row.indent, style=row.style)
        else:
            yield shape.line(row)


def fit(line: Text, width: int) -> Text:
    """The line, cut with an ellipsis if it is too long."""
    if line.cell_len > width:
        line.truncate(width, overflow="ellipsis")
    return line


def paragraph(text: str, width: int, indent: str = "  ", first: str | None = None, style: str = "") -> Iterator[Text]:
    """The text wrapped at words, hanging under its first line's beginning."""
    start = indent if first is None else first
    for line in wrap(
        plain(text).replace("\n", " "),
        max(20, width),
        initial_indent=start,
        subsequent_indent=indent,
        break_on_hyphens=False,
    ):
        yield fit(Text(line, style=style), width)


class _Shape:
    """A layout's columns, those without content left out, with the size of each."""

    def __init__(self, title: str, layout: Layout, rows: Sequence[Row]) -> None:
        measured = [(column, _size(column, rows)) for column in layout.columns]
        shown = [(column, size) for number, (column, size) in enumerate(measured) if size or not number]
        self._columns = [column for column, _ in shown]
        self._sizes = [max(size, cell_len(column.title)) for column, size in shown]
        self._sizes[0] = max(self._sizes[0], cell_len(title) - _INDENT)
        self._gap = " " * layout.gap

    @property
    def width(self) -> int:
        return _INDENT + sum(self._sizes) + len(self._gap) * (len(self._sizes) - 1)

    def cut_to(self, width: int) -> None:
        while self.width > width and max(self._sizes) > _SHORTEST:
            self._sizes[self._sizes.index(max(self._sizes))] -= 1

    def headings(self, title: str) -> Text:
        line = Text(set_cell_size(title, self._sizes[0] + _INDENT), style="bold")
        for column, size in list(zip(self._columns, self._sizes, strict=True))[1:]:
            line.append(self._gap + _padded(column.title, size, column.right), style="not bold dim")
        line.rstrip()
        return line

    def line(self, row: Row) -> Text:
        line = Text(" " * _INDENT)
        for number, (column, size) in enumerate(zip(self._columns, self._sizes, strict=True)):
            text = plain(row.get(column.key, "")).replace("\n", " ")
            style = (column.emphasis or {}).get(text.partition(" ")[0], "")
            line.append((self._gap if number else "") + _padded(text, size, column.right), style=style)
        line.rstrip()
        return line


def _fitting(title: str, layouts: Sequence[Layout], rows: Sequence[Row], width: int) -> _Shape:
    shape = _Shape(title, layouts[0], rows)
    for layout in layouts[1:]:
        if shape.width <= width:
            break
        shape = _Shape(title, layout, rows)
    shape.cut_to(width)
    return shape


def _size(column: Column, rows: Sequence[Row]) -> int:
    return max((cell_len(plain(row.get(column.key, ""))) for row in rows), default=0)


def _padded(text: str, size: int, right: bool) -> str:
    length = cell_len(text)
    if length > size:
        return set_cell_size(text, size - 1) + "…"
    return " " * (size - length) + text if right else text + " " * (size - length)
