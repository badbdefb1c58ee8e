"""What a console output tells of a start that failed: the sentence by which the node's boot said why, and what came before it.

A machine that powers off prints a hundred lines after that sentence, so the end alone rarely shows the cause.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

#: How much of an output is kept: small enough for an etcd value.
KEPT_CHARS = 8_000
#: A sentence is shorter; what is longer is some program's output.
SENTENCE_CHARS = 600

#: A line that systemd or cloud-init copies to the console: who said it, and what. The first boot of a stock image runs as a shell,
#: which names itself in what it says (`sh[512]: scaler-sidecar: …`); its limit writes to the console without systemd.
_LINE = re.compile(
    r"(?:^|[\s\]])(?:(?:scaler-sidecar|start-node|(?P<deadman>deadman))\[\d+\]|(?P<shell>scaler-sidecar)): (?P<said>.+)"
)
#: What any other program said that the first boot ran: curl, apt or pip, before the shell gave up.
_FIRST_BOOT = re.compile(r"(?:^|[\s\]])(?:sh|cloud-init)\[\d+\]: (?P<said>.*\S)")
#: What the first boot says of its progress, in cloud-init.yaml and ami/provision.sh: no reason for anything.
_PROGRESS = re.compile(r"fetching |[a-z0-9-]+$")
#: What follows from a failure: that the first boot failed, or has taken too long.
_FAILED = "This is no node: its first boot failed"
_LIMIT = "This is no node after "
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass(frozen=True)
class ConsoleOutput:
    """``said`` is empty when no program of ours said why; ``kept`` ends with that line, or with the output."""

    said: str
    kept: str


class _Weight(IntEnum):
    """What a line is worth against one that was said before: a consequence never hides its cause."""

    NOTHING = 0
    CONSEQUENCE = 1
    CAUSE = 2


def read_console(text: str) -> ConsoleOutput:
    """Find the last word of the node's own boot in the console output of an instance."""
    said, end, weight = "", len(text), _Weight.NOTHING
    before = ""  # what a program of the first boot said last
    at = 0
    for raw in text.splitlines(keepends=True):
        at += len(raw)
        line = _ESCAPES.sub("", raw).rstrip()
        found = _LINE.search(line)
        if found is None:
            other = _FIRST_BOOT.search(line)
            before = other["said"] if other else before
            continue
        sentence, new = found["said"], _weigh(found)
        if new is _Weight.NOTHING:
            before = ""
            continue
        if sentence.startswith(_FAILED) and before and weight is not _Weight.CAUSE:
            # No sentence of ours, then: the program that failed has said it.
            sentence, new = f"Its first boot failed: {before}", _Weight.CAUSE
        if new >= weight:
            said, end, weight = sentence[:SENTENCE_CHARS], at, new
        before = ""
    return ConsoleOutput(said, last_lines(text[:end], KEPT_CHARS))


def last_lines(text: str, limit: int) -> str:
    """Its end, in whole lines: half a line may begin with a secret whose name, by which it is known as one, is cut off.

    Of a single line that is longer than ``limit``, its end.
    """
    if len(text) <= limit:
        return text
    start = len(text) - limit
    whole = text.find("\n", start - 1) + 1
    return text[whole:] if 0 < whole < len(text) else text[start:]


def _weigh(line: re.Match[str]) -> _Weight:
    said = line["said"]
    if said.startswith("{"):  # a log's line, not a sentence
        return _Weight.NOTHING
    if line["deadman"] or said.startswith((_FAILED, _LIMIT)):
        return _Weight.CONSEQUENCE
    if line["shell"] and _PROGRESS.match(said):
        return _Weight.NOTHING
    return _Weight.CAUSE
