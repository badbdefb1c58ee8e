"""What the server knows: kept in memory for speed, in SQLite for good.

Guarantees: a change is in the file before the call that made it is answered, so SIGKILL at any moment loses nothing
acknowledged. Not guaranteed: a power failure may lose the last changes (commits are not flushed to the disk one by
one). All access happens inside ``with state.transaction()``, which holds the one lock.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scaler_plugin.localcloud.clearml_api.answers import Document

#: What is kept as whole documents; queue entries, events and transitions have tables of their own because they grow.
KINDS = ("task", "queue", "worker", "project", "model", "server")

SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (kind TEXT, id TEXT, born INTEGER, body TEXT, PRIMARY KEY (kind, id));
CREATE TABLE IF NOT EXISTS entries (queue TEXT, task TEXT, rank INTEGER, added TEXT, PRIMARY KEY (queue, task));
CREATE TABLE IF NOT EXISTS events (task TEXT, type TEXT, timestamp INTEGER, body TEXT);
CREATE INDEX IF NOT EXISTS events_by_task ON events (task, type, timestamp);
CREATE TABLE IF NOT EXISTS transitions (body TEXT);
"""


class Entry:
    """A task's place in a queue. Ranks only order; they have gaps and may be negative."""

    __slots__ = ("added", "rank")

    def __init__(self, rank: int, added: str) -> None:
        self.rank = rank
        self.added = added


class State:
    """The documents by kind and id, the queues' entries in order, and the file behind both."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        # The file holds the key that signs tokens.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(SCHEMA)
        self.documents: dict[str, dict[str, Document]] = {kind: {} for kind in KINDS}
        self.entries: defaultdict[str, OrderedDict[str, Entry]] = defaultdict(OrderedDict)
        for kind, identifier, body in self._db.execute("SELECT kind, id, body FROM documents ORDER BY born"):
            self.documents[kind][identifier] = json.loads(body)
        for queue, task, rank, added in self._db.execute("SELECT queue, task, rank, added FROM entries ORDER BY rank"):
            self.entries[queue][task] = Entry(rank, added)
        self._born: int = self._db.execute("SELECT COALESCE(MAX(born), 0) FROM documents").fetchone()[0]
        self._dirty: dict[tuple[str, str], None] = {}
        with self.transaction():
            if "server" not in self.documents["server"]:
                self.put("server", {"id": "server", "token_key": secrets.token_hex(32)})

    @property
    def token_key(self) -> str:
        """The key that signs this server's tokens; it outlives a restart, as clients keep their tokens."""
        return str(self.documents["server"]["server"]["token_key"])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the lock and write what changed. A refused call's changes are kept too: the real server has none either."""
        with self._lock:
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._write_dirty()
                self._db.execute("COMMIT")

    def _write_dirty(self) -> None:
        for kind, identifier in self._dirty:
            document = self.documents[kind].get(identifier)
            if document is None:
                self._db.execute("DELETE FROM documents WHERE kind = ? AND id = ?", (kind, identifier))
                continue
            self._born += 1
            self._db.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
                (kind, identifier, self._born, json.dumps(document)),
            )
        self._dirty.clear()

    def put(self, kind: str, document: Document) -> None:
        """Add the document, or note that it was changed in place."""
        self.documents[kind][document["id"]] = document
        self._dirty[kind, document["id"]] = None

    def drop(self, kind: str, identifier: str) -> None:
        """Forget the document."""
        self.documents[kind].pop(identifier, None)
        self._dirty[kind, identifier] = None

    # --- queue entries -------------------------------------------------------------------------------------------

    def append_entry(self, queue: str, task: str, added: str) -> None:
        """Put the task at the end of the queue."""
        entries = self.entries[queue]
        rank = next(reversed(entries.values())).rank + 1 if entries else 0
        entries[task] = Entry(rank, added)
        self._db.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (queue, task, rank, added))

    def remove_entry(self, queue: str, task: str) -> bool:
        """Take the task out of the queue; False when it was not in it."""
        if self.entries[queue].pop(task, None) is None:
            return False
        self._db.execute("DELETE FROM entries WHERE queue = ? AND task = ?", (queue, task))
        return True

    def place_entry(self, queue: str, task: str, position: int) -> int:
        """Move the task to a position (clamped) and return where it is now."""
        order = list(self.entries[queue].items())
        index = next(i for i, (name, _) in enumerate(order) if name == task)
        moved = order.pop(index)
        position = max(0, min(position, len(order)))
        order.insert(position, moved)
        for rank, (_, entry) in enumerate(order):
            entry.rank = rank
        self.entries[queue] = OrderedDict(order)
        self._db.executemany(
            "UPDATE entries SET rank = ? WHERE queue = ? AND task = ?",
            [(entry.rank, queue, name) for name, entry in order],
        )
        return position

    def remove_from_all_queues(self, task: str, keep: str | None = None) -> bool:
        """Take the task out of every queue but ``keep``; True when it was in one."""
        removed = [self.remove_entry(queue, task) for queue in list(self.entries) if queue != keep]
        return any(removed)

    # --- events and transitions ----------------------------------------------------------------------------------

    def add_event(self, event: Document) -> None:
        """Keep a console line, scalar or other event."""
        row = (event["task"], event["type"], event.get("timestamp", 0), json.dumps(event))
        self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?)", row)

    def events(self, task: str, event_type: str) -> list[Document]:
        """The task's events of one type, oldest first."""
        rows = self._db.execute(
            "SELECT body FROM events WHERE task = ? AND type = ? ORDER BY timestamp, rowid", (task, event_type)
        )
        return [json.loads(body) for (body,) in rows]

    def drop_events(self, task: str) -> None:
        """Forget all events of the task."""
        self._db.execute("DELETE FROM events WHERE task = ?", (task,))

    def add_transition(self, transition: Document) -> None:
        """Keep a line of what happened to a task."""
        self._db.execute("INSERT INTO transitions VALUES (?)", (json.dumps(transition),))

    def transitions(self) -> list[Document]:
        """Everything that ever happened to tasks, oldest first."""
        return [json.loads(body) for (body,) in self._db.execute("SELECT body FROM transitions ORDER BY rowid")]

    def close(self) -> None:
        """Close the file once running calls are through; later calls fail."""
        with self._lock:
            self._db.close()
