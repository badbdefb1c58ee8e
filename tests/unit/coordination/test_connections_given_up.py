"""A connection that one thread gives up while another has just taken it: no thread may end of that."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from scaler_plugin.coordination import etcd_watch
from scaler_plugin.coordination.etcd_connection import Access, Connection, Connections, parse_endpoints
from scaler_plugin.coordination.etcd_rpc import grpc, rpc
from scaler_plugin.coordination.etcd_watch import WatchStream
from scaler_plugin.errors import StoreUnavailable

#: Nothing listens there: every call ends at once.
NOWHERE = ["127.0.0.1:1"]


@pytest.fixture
def connections() -> Iterator[Connections]:
    opened = Connections(Access(parse_endpoints(NOWHERE, False), None, None, None, None, None, timeout_s=0.5))
    yield opened
    opened.close()


def ask(connection: Connection, timeout_s: float, _: Any = ()) -> Any:
    return connection.kv.Range(rpc.RangeRequest(key=b"k"), timeout_s)


def test_a_connection_stays_open_for_who_took_it_before_it_was_given_up(connections: Connections) -> None:
    taken = connections.borrow()
    connections.give_up(taken)
    with taken, pytest.raises(grpc.RpcError):
        ask(taken, 0.2)
    with pytest.raises(ValueError, match="closed"):
        ask(taken, 0.2)  # after its last use the channel is closed
    with connections.borrow() as successor:
        assert successor is not taken


def test_calls_of_many_threads_that_give_up_each_others_connections_end_in_unavailable(
    connections: Connections,
) -> None:
    ended: list[BaseException] = []

    def call_again_and_again() -> None:
        for _ in range(20):
            try:
                connections.call(ask, repeatable=True)
            except BaseException as error:
                ended.append(error)

    threads = [threading.Thread(target=call_again_and_again) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 160
    assert {type(error) for error in ended} == {StoreUnavailable}


def test_the_thread_of_the_watches_outlives_an_unforeseen_error(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "LONGEST_PAUSE_S", 0.01)
    failures = 0

    def fail() -> Connection:
        nonlocal failures
        failures += 1
        raise ValueError("Cannot invoke RPC on closed channel!")

    monkeypatch.setattr(connections, "borrow", fail)
    stream = WatchStream(connections)
    stream.add("/k", lambda: None, 0.01)
    deadline = time.monotonic() + 20
    while failures < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    stream.close()
    assert failures >= 3
