"""Every command that pages, units and the program's own sentences name exists, with every option that is given to it there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted(
    file
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "ami/**/*",
        "bootstrap/**/*",
        "scaler_plugin/**/*.py",
        "scaler_plugin/**/*.yaml",
    )
    for file in ROOT.glob(pattern)
    if file.is_file() and file.suffix not in (".lock", ".pyc", ".svg")
)
#: Options of the program itself.
_OWN = {"--help", "--version"}
#: In prose between back-ticks or in a script: up to its end, the line's, a pipe, or a comment.
_IN_TICKS = re.compile(r"`(?:\$ )?scaler-sidecar ([^`\n]+)`")
_IN_LINE = re.compile(r"^(?:[\w=./-]+=\S+ )*(?:ExecStart=)?(?:[\w./-]*/)?scaler-sidecar ([^#|&>;\n]+)", re.MULTILINE)


def shown_commands(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        text = re.sub(r"['\"]\n\s*f?['\"]", "", text)  # sentences that go on in the next line
    yield from _IN_TICKS.findall(text)
    if file.suffix in (".md", ".service", ".sh"):
        yield from _IN_LINE.findall(text)


def wrong_with(command: str) -> str | None:
    """What is wrong with the words after the program's name; ``None`` if nothing."""
    name, *words = shlex.split(command.replace("…", " ")) or [""]
    if name in _OWN or name == "COMMAND":
        return None
    entry = next((entry for entry in COMMANDS if entry.name == name), None)
    if entry is None:
        return f"there is no command {name}"
    found: Any = entry.load()
    if inner := getattr(found, "commands", None):
        if not words:
            return None
        if words[0] not in inner:
            return f"there is no command {name} {words[0]}"
        found = inner[words.pop(0)]
    if entry.passthrough:
        return None
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)} | _OWN
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
    return f"it has no option {' '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_that_is_shown_exists_with_its_options(file: Path) -> None:
    wrong = {command: said for command in shown_commands(file) if (said := wrong_with(command))}
    assert not wrong


def test_the_pages_show_commands_at_all() -> None:
    assert sum(len(list(shown_commands(file))) for file in SOURCES) > 100


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    pages = [file for file in SOURCES if file.suffix == ".md"]
    named = {name for page in pages for name in re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(), re.MULTILINE)}
    assert named
    assert sorted(named - set(targets)) == []
