"""What the sidecar tells its agents of their pool's queues."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaler_plugin.agent.pool_queues import FILE_NAME, announce_queues, announced_queues, queues_watch
from scaler_plugin.core.model import QueueName
from scaler_plugin.errors import HostError

A, B = QueueName("a"), QueueName("b")


def test_an_agent_that_was_told_nothing_serves_what_it_serves(tmp_path: Path) -> None:
    assert announced_queues(tmp_path) == ()
    assert not queues_watch(tmp_path, (A,))()


def test_other_queues_and_another_order_of_the_same_are_a_change_and_the_same_are_none(tmp_path: Path) -> None:
    changed = queues_watch(tmp_path, (A, B))
    for queues, is_change in (((A, B), False), ((B, A), True), ((A,), True), ((A, B), False)):
        announce_queues(tmp_path, queues)
        assert announced_queues(tmp_path) == queues
        assert changed() is is_change


@pytest.mark.parametrize("text", ["", "{", "{}", "1", "[1, 2]"])
def test_a_file_that_cannot_be_understood_changes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    assert not queues_watch(tmp_path, (A,))()


def test_everybody_may_read_it_and_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    announce_queues(tmp_path, (A,))
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o644
    with pytest.raises(HostError, match="queues could not be written"):
        announce_queues(tmp_path / "missing", (A,))
