"""What a call makes of members that live but have no leader at the moment."""

from __future__ import annotations

import pytest

from scaler_plugin.coordination.etcd_connection import Access, Connection, Connections, Metadata, parse_endpoints
from scaler_plugin.coordination.etcd_rpc import grpc
from scaler_plugin.errors import StoreUnavailable

ENDPOINTS = parse_endpoints(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], tls_files=False)


class Electing(grpc.RpcError):  # type: ignore[misc]
    """What a member answers at once while its cluster elects."""

    def code(self) -> object:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "etcdserver: leader changed"


class Members:
    """Refuse so many calls, then answer."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.calls = 0

    def ask(self, _connection: Connection, _timeout_s: float, _metadata: Metadata) -> str:
        self.calls += 1
        if self.calls <= self.refusals:
            raise Electing
        return "answer"


def connections(timeout_s: float) -> Connections:
    return Connections(Access(ENDPOINTS, None, None, None, None, None, timeout_s))


def test_a_read_waits_for_the_end_of_an_election_however_often_it_is_refused() -> None:
    members = Members(refusals=7)
    assert connections(timeout_s=30).call(members.ask, repeatable=True) == "answer"
    assert members.calls == 8


def test_a_read_does_not_wait_longer_than_its_timeout() -> None:
    with pytest.raises(StoreUnavailable, match="leader changed"):
        connections(timeout_s=0.3).call(Members(refusals=10_000).ask, repeatable=True)


def test_a_write_is_not_made_again_as_it_may_have_been_applied() -> None:
    members = Members(refusals=1)
    with pytest.raises(StoreUnavailable, match="leader changed"):
        connections(timeout_s=30).call(members.ask, repeatable=False)
    assert members.calls == 1
