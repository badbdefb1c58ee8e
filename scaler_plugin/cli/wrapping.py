"""Long lines on a terminal: broken between words, under their own beginning. In a pipe or a file a line stays one line.

A command on a line of its own stays whole: the terminal itself breaks it, so that who copies it gets one line.
"""

from __future__ import annotations

import shutil
import textwrap
from typing import TextIO

_HANGING = "    "
_COMMANDS = ("aws ", "scaler-sidecar ", "export ")


def fitted(text: str, stream: TextIO) -> str:
    """The text as the stream shows it best. Paths, ids and names with hyphens are never broken."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(_wrapped(line, width) for line in text.splitlines())


def _wrapped(line: str, width: int) -> str:
    if line.lstrip().startswith(_COMMANDS):
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line,
        width,
        subsequent_indent=indent + _HANGING,
        break_long_words=False,
        break_on_hyphens=False,
    )
