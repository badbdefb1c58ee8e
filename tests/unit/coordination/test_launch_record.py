"""A launch reads as it was written and fits into etcd with many candidates; a short one lies there as every version reads it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaler_plugin.coordination import launch_record
from scaler_plugin.coordination.codec import decode, encode
from scaler_plugin.coordination.launch_record import WHOLE_CHARS, decode_launch_text, encode_launch
from scaler_plugin.core.launching import new_launch, refused, succeeded
from scaler_plugin.core.model import InstanceId, Launch, LaunchId, LaunchRequest, PoolName
from scaler_plugin.errors import RecordMalformed

#: What etcd takes in one request by default, and what EC2 takes as user-data.
ETCD_LIMIT, USER_DATA_LIMIT = 1_572_864, 16_384
POOL, ID = PoolName("gpu"), LaunchId("l-1")


def candidates(number: int, user_data: str = "#cloud-config\n") -> tuple[LaunchRequest, ...]:
    return tuple(
        LaunchRequest("c", POOL, ID, 100, f"g5.{i}xlarge", "ami-1", subnet_id=f"subnet-{i}", user_data=user_data)
        for i in range(number)
    )


def tried(launch: Launch, error: str = "EC2 has no more of this type.") -> Launch:
    """Every candidate but the last was refused."""
    while (after := refused(launch, error, 2.0)) is not None:
        launch = after
    return launch


def launch_of(requests: tuple[LaunchRequest, ...]) -> Launch:
    return new_launch(ID, 100, 1, 7, "100 waiting in gpu", requests, 1.0)


LONG = "x" * USER_DATA_LIMIT


@pytest.fixture(params=[WHOLE_CHARS, 0], ids=["whole", "compact"], autouse=True)
def whole_chars(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_record, "WHOLE_CHARS", request.param)


@pytest.mark.parametrize(
    "requests", [candidates(3), candidates(1, ""), (*candidates(1), *candidates(1, "other")), candidates(20, LONG)]
)
def test_a_launch_reads_as_it_was_written(requests: tuple[LaunchRequest, ...]) -> None:
    launch = tried(launch_of(requests))
    for step in (launch, succeeded(launch, (InstanceId("i-1"), InstanceId("i-2")), 3.0)):
        assert decode_launch_text(encode_launch(step), "key") == step


def test_a_launch_with_every_type_in_every_zone_and_the_longest_user_data_fits_into_etcd() -> None:
    launch = tried(launch_of(candidates(600, LONG)), "z" * 400)
    assert len(encode_launch(launch)) < ETCD_LIMIT / 2
    assert len(encode(launch)) > ETCD_LIMIT, "written out whole it would not"


def test_a_record_that_was_written_out_whole_is_read() -> None:
    launch = tried(launch_of(candidates(3)))
    assert decode_launch_text(encode(launch), "key") == launch


def test_a_short_record_is_read_by_a_leader_that_knows_no_compact_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    launch = tried(launch_of(candidates(20)))
    assert decode(Launch, encode_launch(launch), "key") == launch


def test_an_attempt_of_what_is_no_candidate_is_kept_whole() -> None:
    launch = launch_of(candidates(2))
    changed = replace(launch.attempts[0], request=replace(launch.candidates[0], count=1))
    launch = replace(launch, attempts=(changed,))
    assert decode_launch_text(encode_launch(launch), "key") == launch


@pytest.mark.parametrize("candidate", ["7", "-1", "null"])
def test_an_attempt_of_a_candidate_that_is_not_there_is_malformed(
    candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_record, "WHOLE_CHARS", 0)
    text = encode_launch(launch_of(candidates(2))).replace('"candidate":0', f'"candidate":{candidate}')
    with pytest.raises(RecordMalformed, match="key"):
        decode_launch_text(text, "key")
