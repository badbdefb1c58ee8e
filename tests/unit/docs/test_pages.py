"""The pages say what the code does: generated ones are not stale, links lead somewhere, named files and tests exist."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.cli.commands import COMMANDS
from scaler_plugin.cli.reference import reference

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

#: Where a path in back-ticks begins, so that it is one of this repository and not of somebody's machine.
FOLDERS = ("scaler_plugin/", "tests/", "docs/", "bench/", ".ci/", ".github/", "bootstrap/", "ami/")

_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_CODE = re.compile(r"`([^`\n]+)`")
_TEST = re.compile(r"`(?P<file>tests/[\w/]+\.py)(?:::(?P<name>\w+))?`")
_MODULE = re.compile(r"scaler_plugin(?:\.\w+)+")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> Iterator[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    for line in prose(page).splitlines():
        if line.startswith("#"):
            text = line.lstrip("#").strip().lower()
            yield re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_a_heading_of_the_repository(page: Path) -> None:
    broken = []
    for match in _LINK.finditer(prose(page)):
        link = match.group(1) or match.group(2)
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        # A heading that begins with a character GitHub drops gives an anchor of its own making; those are compared as made.
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{named(page)} has links that lead nowhere: {broken}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    paths = [
        code.partition("::")[0].partition(" ")[0].rstrip(":,.")
        for code in _CODE.findall(prose(page))
        if code.startswith(FOLDERS)
    ]
    missing = [path for path in paths if not any(ROOT.glob(path.rstrip("/")))]
    assert not missing, f"{named(page)} names files that do not exist: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    missing = [
        match.group(0)
        for match in _TEST.finditer(prose(page))
        if match["name"] and f"def {match['name']}(" not in (ROOT / match["file"]).read_text(encoding="utf-8")
    ]
    assert not missing, f"{named(page)} names tests that do not exist: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    missing = [name for name in set(_MODULE.findall(prose(page))) if not _importable(name)]
    assert not missing, f"{named(page)} names modules that do not exist: {missing}"


def _importable(name: str) -> bool:
    """A module, or something in one."""
    module, _, attribute = name.rpartition(".")
    folder = ROOT.joinpath(*name.split("."))
    if folder.with_suffix(".py").exists() or (folder / "__init__.py").exists():
        return True
    found: Any = importlib.import_module(module)
    return hasattr(found, attribute)


def test_every_sentence_that_troubleshooting_quotes_is_one_that_the_program_says() -> None:
    page = prose(ROOT / "docs" / "troubleshooting.md")
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "scaler_plugin").rglob("*.py"))
    quoted = re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", page)
    assert quoted
    invented = [
        sentence
        for sentence in quoted
        if any(part.strip() not in sources for part in sentence.split("…") if part.strip())
    ]
    assert not invented


def test_the_page_of_the_command_line_is_not_stale() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == reference(), "run: make docs"


def test_every_option_on_that_page_says_what_it_is() -> None:
    empty = [line for line in reference().splitlines() if re.match(r"^\| .* \|\s*\|$", line)]
    assert not empty


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [entry.name for entry in COMMANDS if f"`{entry.name}" not in readme] == []


def test_the_page_of_the_command_line_names_every_variable_that_people_set() -> None:
    # Read from the environment, or named by a constant for that; what hooks are given stands with the hooks.
    own = re.compile(r"""(?:environ(?:\.get\(|\[)|^[A-Z_]+ = )"(SCALER_[A-Z_]*[A-Z])\"""", re.MULTILINE)
    #: Set by the program for its own child processes.
    inner = {"SCALER_SLOT_DIR", "SCALER_LOCAL_MACHINE", "SCALER_NODE_SETUP"}
    used = {
        name
        for source in (ROOT / "scaler_plugin").rglob("*.py")
        for name in own.findall(source.read_text(encoding="utf-8"))
    }
    assert sorted(name for name in used - inner if f"`{name}`" not in reference()) == []


def test_every_decision_stands_in_the_list_and_every_page_in_the_overview() -> None:
    decisions = ROOT / "docs" / "decisions"
    listed = (decisions / "README.md").read_text(encoding="utf-8")
    overview = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in sorted(decisions.glob("0*.md")) if f"({page.name})" not in listed] == []
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in overview] == ["README.md"]


def test_every_folder_of_the_package_stands_in_the_layout_and_every_example_in_the_overview() -> None:
    layout = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [file.parent.name for file in (ROOT / "scaler_plugin").glob("*/__init__.py")]
    assert [name for name in folders if f"`scaler_plugin/{name}/`" not in layout] == []
    overview = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [
        file.name for file in (ROOT / "docs" / "examples").iterdir() if f"(examples/{file.name})" not in overview
    ] == []
