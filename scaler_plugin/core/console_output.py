"""What a console output tells of a start that failed: the sentence by which the node's boot said why, and what came before it.

A machine that powers off prints a hundred lines after that sentence, so the end alone rarely shows the cause.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: How much of an output is kept: small enough for an etcd value.
KEPT_CHARS = 8_000
#: A sentence is shorter; what is longer is some program's output.
SENTENCE_CHARS = 600

#: A line that systemd copies to the console: who said it, and what. The dead-man's switch only tells of the consequence.
_LINE = re.compile(r"(?:^|[\s\]])(scaler-sidecar|start-node|deadman)\[\d+\]: (.+)")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass(frozen=True)
class ConsoleOutput:
    """``said`` is empty when no program of ours said why; ``kept`` ends with that line, or with the output."""

    said: str
    kept: str


def read_console(text: str) -> ConsoleOutput:
    """Find the last word of the node's own boot in the console output of an instance."""
    said, end, by_deadman = "", len(text), True
    at = 0
    for line in text.splitlines(keepends=True):
        at += len(line)
        found = _LINE.search(_ESCAPES.sub("", line).rstrip())
        if found is None or found[2].startswith("{"):  # a log's line, not a sentence
            continue
        if found[1] != "deadman" or by_deadman:
            said, end, by_deadman = found[2][:SENTENCE_CHARS], at, found[1] == "deadman"
    return ConsoleOutput(said, text[max(0, end - KEPT_CHARS) : end])
