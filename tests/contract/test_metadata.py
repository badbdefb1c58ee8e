"""The instance metadata port: the real adapter against the stand-in service, and the in-memory twin."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from scaler_plugin.cloud.metadata import (
    ENDPOINT_VARIABLE,
    ImdsMetadata,
    InstanceFacts,
    InstanceMetadata,
    MemoryMetadata,
    ScheduledEvent,
    SpotInterruption,
)
from scaler_plugin.core.model import InstanceId, Market
from scaler_plugin.errors import CloudUnavailable
from scaler_plugin.localcloud.imds import ImdsServer, RoleCredentials, write_facts

FACTS = InstanceFacts(
    instance_id=InstanceId("i-0123456789abcdef0"),
    instance_type="g5.xlarge",
    zone="eu-west-1b",
    region="eu-west-1",
    market=Market.SPOT,
    user_data="# hello\ncluster: grün\n",
)

AT = 1_800_000_000.0


class Told:
    """The port under test and the facts behind it."""

    def __init__(self, metadata: InstanceMetadata, tell: Callable[[InstanceFacts], None], silence: Callable[[], None]):
        self.metadata, self.tell, self.silence = metadata, tell, silence


@pytest.fixture(params=["memory", pytest.param("imds", marks=pytest.mark.real)])
def told(request: pytest.FixtureRequest) -> Iterator[Told]:
    if request.param == "memory":
        memory = MemoryMetadata(FACTS)
        yield Told(memory, lambda facts: setattr(memory, "facts", facts), lambda: setattr(memory, "reachable", False))
        return
    now = [FACTS]
    server = ImdsServer(lambda: now[0])
    url = server.start()
    yield Told(ImdsMetadata(url), lambda facts: now.__setitem__(0, facts), server.stop)
    server.stop()


def test_an_instance_learns_who_it_is(told: Told) -> None:
    metadata = told.metadata
    assert metadata.instance_id() == FACTS.instance_id
    assert (metadata.instance_type(), metadata.zone(), metadata.region()) == ("g5.xlarge", "eu-west-1b", "eu-west-1")
    assert metadata.market() is Market.SPOT
    assert metadata.user_data() == FACTS.user_data


def test_without_user_data_the_text_is_empty(told: Told) -> None:
    told.tell(replace(FACTS, user_data="", market=Market.ON_DEMAND))
    assert told.metadata.user_data() == ""
    assert told.metadata.market() is Market.ON_DEMAND


def test_nothing_is_announced_until_ec2_announces_it(told: Told) -> None:
    assert told.metadata.spot_interruption() is None
    assert told.metadata.rebalance_recommended_at() is None
    assert told.metadata.scheduled_events() == ()


def test_announcements_are_seen_at_the_next_look(told: Told) -> None:
    event = ScheduledEvent(
        "instance-event-0d59937288b749b32", "system-reboot", "active", AT, AT + 60, "scheduled reboot"
    )
    told.metadata.spot_interruption()
    told.tell(
        replace(
            FACTS,
            spot_interruption=SpotInterruption("terminate", AT),
            rebalance_recommended_at=AT - 300,
            scheduled_events=(event, replace(event, not_after=None)),
        )
    )
    assert told.metadata.spot_interruption() == SpotInterruption("terminate", AT)
    assert told.metadata.rebalance_recommended_at() == AT - 300
    assert told.metadata.scheduled_events() == (event, replace(event, not_after=None))


def test_a_service_that_does_not_answer_is_unavailable(told: Told) -> None:
    told.silence()
    with pytest.raises(CloudUnavailable):
        told.metadata.instance_id()
    with pytest.raises(CloudUnavailable):
        told.metadata.spot_interruption()


@pytest.mark.real
class TestTheRealService:
    def test_reads_without_a_token_are_refused_by_the_stand_in(self) -> None:
        server = ImdsServer(FACTS)
        url = server.start()
        try:
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{url}/latest/meta-data/instance-id")
            assert refused.value.code == 401
        finally:
            server.stop()

    def test_a_token_that_is_no_longer_known_is_renewed(self) -> None:
        server = ImdsServer(FACTS)
        metadata = ImdsMetadata(server.start())
        try:
            metadata.instance_id()
            server.forget_tokens()
            assert metadata.instance_id() == FACTS.instance_id
        finally:
            server.stop()

    def test_off_ec2_the_error_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENDPOINT_VARIABLE, "http://127.0.0.1:9")
        with pytest.raises(CloudUnavailable, match="not an EC2 instance") as error:
            ImdsMetadata().instance_id()
        assert ENDPOINT_VARIABLE in str(error.value)

    def test_a_proxy_in_the_environment_is_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        server = ImdsServer(FACTS)
        try:
            assert ImdsMetadata(server.start()).instance_id() == FACTS.instance_id
        finally:
            server.stop()

    def test_the_stand_in_can_read_its_facts_from_a_file(self, tmp_path) -> None:
        path = tmp_path / "facts.json"
        write_facts(path, FACTS)
        server = ImdsServer(path)
        metadata = ImdsMetadata(server.start())
        try:
            assert metadata.user_data() == FACTS.user_data
            write_facts(path, replace(FACTS, spot_interruption=SpotInterruption("stop", AT)))
            assert metadata.spot_interruption() == SpotInterruption("stop", AT)
        finally:
            server.stop()


@pytest.mark.real
def test_boto3_takes_the_credentials_of_a_role_from_the_stand_in_and_none_where_there_is_no_role() -> None:
    from botocore.utils import InstanceMetadataFetcher  # noqa: PLC0415

    role = RoleCredentials("node", "ASIAEXAMPLE", "secret", "session")
    for given, expected in ((role, "ASIAEXAMPLE"), (None, None)):
        server = ImdsServer(FACTS, role=given)
        try:
            fetcher = InstanceMetadataFetcher(base_url=server.start(), num_attempts=1)
            assert fetcher.retrieve_iam_role_credentials().get("access_key") == expected
        finally:
            server.stop()
