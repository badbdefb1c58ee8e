"""``scaler-sidecar status --watch``: a calm picture that stays, also while etcd is away.

Guarantees: the screen is redrawn once a second at most; etcd is read in full when something changed (a watch says so) and every
:data:`REREAD_EVERY_S` in case the watch missed it, else asked for one key only; when etcd does not answer, the last picture
stays and says since when.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.ports import Clock
from scaler_plugin.errors import StoreError
from scaler_plugin.status.grid import fit
from scaler_plugin.status.make_report import make_report
from scaler_plugin.status.reading import ClusterRecords, read_cluster
from scaler_plugin.status.render import render
from scaler_plugin.status.wording import duration

REDRAW_EVERY_S = 1.0
REREAD_EVERY_S = 10.0


class Picture:
    """The last records read, and since when (monotonic) etcd has been away."""

    def __init__(self, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._changed = threading.Event()
        self._read_at = clock.monotonic()
        self._away_since: float | None = None
        self._records: ClusterRecords = read_cluster(store, keys)

    def changed(self) -> None:
        """Something under the cluster's keys changed. May be called from any thread."""
        self._changed.set()

    def refresh(self) -> None:
        """Ask etcd again. Never raises: a failure is part of the picture."""
        now = self._clock.monotonic()
        try:
            if self._changed.is_set() or self._away_since is not None or now - self._read_at >= REREAD_EVERY_S:
                self._changed.clear()
                self._records = read_cluster(self._store, self._keys)
                self._read_at = now
            else:
                self._store.get(self._keys.leader)
        except StoreError:
            self._away_since = self._away_since if self._away_since is not None else now
        else:
            self._away_since = None

    def lines(self, width: int, height: int, *, list_all: bool, verbose: bool) -> list[Text]:
        """The screen: at most ``height`` lines, with a last one that says what was left out.

        On a small screen problems are cut short, so that the queues and pools behind them are seen.
        """
        report = make_report(self._records, self._clock.now())
        lines = render(report, width, list_all=list_all, verbose=verbose)
        if len(lines) >= height and not verbose:
            lines = render(report, width, list_all=list_all, brief=True)
        if self._away_since is not None:
            away = duration(self._clock.monotonic() - self._away_since)
            notice = f"etcd does not answer for {away}; this is the picture from before"
            lines.insert(0, fit(Text(notice, style="bold reverse"), width))
        if len(lines) > height:
            hidden = len(lines) - height + 1
            lines[height - 1 :] = [
                fit(Text(f"… {hidden} more lines; without --watch all are shown", style="dim"), width)
            ]
        return lines


def watch_status(
    store: Store,
    keys: Keys,
    clock: Clock,
    console: Console,
    pause: Callable[[float], object],
    *,
    list_all: bool,
    verbose: bool,
) -> None:
    """Draw until interrupted. Raises :class:`~scaler_plugin.errors.StoreError` only if the first picture cannot be read."""
    picture = Picture(store, keys, clock)

    def draw() -> Group:
        return Group(*picture.lines(console.width, console.height, list_all=list_all, verbose=verbose))

    with suppress(KeyboardInterrupt), Live(draw(), console=console, screen=True, auto_refresh=False) as live:
        watch = store.watch(keys.root, picture.changed)
        picture.changed()  # what happened between the first reading and the watch
        try:
            while True:
                picture.refresh()
                live.update(draw(), refresh=True)
                pause(REDRAW_EVERY_S)
        finally:
            watch.cancel()
