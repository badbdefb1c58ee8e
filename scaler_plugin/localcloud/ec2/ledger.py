"""What the double writes down: every change of the account, to be repeated after a restart, and every call, to be shown.

Each record is one line, written with one system call before its answer is sent. So SIGKILL loses no change that somebody was
told of; a power cut may. A line torn by the kill was never answered and is dropped.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Ledger:
    """An append-only file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        whole = path.read_bytes() if path.exists() else b""
        kept = whole[: whole.rfind(b"\n") + 1]
        self._records: list[dict[str, Any]] = [json.loads(line) for line in kept.splitlines()]
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.truncate(path, len(kept))

    def append(self, record: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)

    def written_before(self) -> list[dict[str, Any]]:
        """What the file held when it was opened; handed out once."""
        records, self._records = self._records, []
        return records


class Changes:
    """The account's changes in order, under a seed that makes their replay give the same ids."""

    def __init__(self, path: Path) -> None:
        self._ledger = Ledger(path)
        self._past = self._ledger.written_before()
        if not self._past:
            first = {"seed": secrets.token_hex(8)}
            self._ledger.append(first)
            self._past = [first]
        self.seed: str = self._past[0]["seed"]

    def past(self) -> Iterator[dict[str, Any]]:
        yield from self._past[1:]
        self._past = []

    def append(self, record: dict[str, Any]) -> None:
        self._ledger.append(record)

    def close(self) -> None:
        self._ledger.close()


class Journal:
    """Every call with its time, parameters and outcome, in order of arrival of the answers."""

    def __init__(self, path: Path) -> None:
        self._ledger = Ledger(path)
        self._entries = self._ledger.written_before()

    def append(self, entry: dict[str, Any]) -> None:
        self._entries.append(entry)
        self._ledger.append(entry)

    def entries(self, action: str | None, since: float) -> list[dict[str, Any]]:
        return [e for e in list(self._entries) if e["time"] >= since and action in (None, e["action"])]

    def close(self) -> None:
        self._ledger.close()
