"""``--watch``: the picture outlives etcd's absence and fits the screen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from scaler_plugin.coordination.memory_store import MemoryClient, MemoryStore
from scaler_plugin.coordination.store import Put
from scaler_plugin.errors import StoreError
from scaler_plugin.simulation.clock import VirtualClock
from scaler_plugin.status.watching import REREAD_EVERY_S, Picture, watch_status

from .made_up import CONFIG, KEYS, NOW, large_cluster, node, puts, view


class Stage:
    def __init__(self) -> None:
        self.clock = VirtualClock(NOW)
        self.etcd = MemoryStore(self.clock)
        self.store: MemoryClient = self.etcd.client("desk")
        self.term = self.store.transact([], puts()).revision
        self.store.transact([], [*puts(view(term=self.term), node(1), leader=None), Put(KEYS.config, CONFIG)])
        self.picture = Picture(self.store, KEYS, self.clock)

    def screen(self, height: int = 40) -> str:
        return "\n".join(line.plain for line in self.picture.lines(80, height, list_all=False, verbose=False))


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_change_is_seen_with_the_next_refresh(stage: Stage) -> None:
    stage.store.watch(KEYS.root, stage.picture.changed)
    stage.store.transact([], puts(node(2), leader=None))
    stage.picture.refresh()
    assert "i-0aa00000000000002" in stage.screen()


def test_a_change_that_the_watch_missed_is_seen_a_little_later(stage: Stage) -> None:
    stage.store.transact([], puts(node(2), leader=None))
    stage.clock.advance(REREAD_EVERY_S)
    stage.picture.refresh()
    assert "i-0aa00000000000002" in stage.screen()


def test_when_etcd_goes_away_the_last_picture_stays_and_says_since_when(stage: Stage) -> None:
    stage.etcd.stop()
    stage.picture.refresh()
    stage.clock.advance(65)
    stage.picture.refresh()
    assert stage.screen().startswith("etcd does not answer for 1m 5s")
    assert "i-0aa00000000000001" in stage.screen()


def test_when_etcd_is_back_everything_is_read_again(stage: Stage) -> None:
    stage.etcd.stop()
    stage.picture.refresh()
    stage.etcd.start()
    stage.store.transact([], puts(node(2), leader=None))
    stage.picture.refresh()
    assert "etcd does not answer" not in stage.screen()
    assert "i-0aa00000000000002" in stage.screen()


def test_the_screen_is_never_longer_than_the_terminal_and_says_how_much_it_hides(stage: Stage) -> None:
    for record in large_cluster(60, term=stage.term):
        stage.store.transact([], puts(record, leader=None))
    stage.clock.advance(REREAD_EVERY_S)
    stage.picture.refresh()
    lines = stage.screen(24).splitlines()
    assert len(lines) == 24
    assert lines[-1].startswith("…")
    assert {"PROBLEMS", "QUEUES"} <= {line.split(" ")[0] for line in lines}


def test_interrupting_ends_the_watch_quietly_after_it_has_drawn(stage: Stage) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=40)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    watch_status(stage.store, KEYS, stage.clock, console, interrupted, list_all=False, verbose=False)
    assert "i-0aa00000000000001" in out.getvalue()


def test_without_a_first_picture_there_is_nothing_to_watch(stage: Stage) -> None:
    stage.etcd.stop()
    with pytest.raises(StoreError):
        Picture(stage.store, KEYS, stage.clock)
