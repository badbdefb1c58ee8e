"""A pool's ``first_boot``: what is taken, what is refused and in which words, and the time it gives."""

from __future__ import annotations

from typing import Any

import pytest

from scaler_plugin.config.load import parse_yaml
from scaler_plugin.config.pool_schema import PoolConfig
from scaler_plugin.config.problems import InvalidConfig

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
BUNDLE = {"bundle_url": "https://files.example.com/ami-bundle.tar.gz", "bundle_sha256": SHA256}


def pool(**settings: Any) -> PoolConfig:
    given = {"first_boot": BUNDLE, **settings}
    first_boot = "".join(f"      {key}: {value}\n" for key, value in given.pop("first_boot").items())
    others = "".join(f"    {key}: {value}\n" for key, value in given.items())
    text = f"""
cluster: research
pools:
  - name: cpu
    queues: [default]
    instance_types: [c6i.xlarge]
    ami: ami-0a1b2c3d4e5f67890
    max_instances: 4
{others}    first_boot:
{first_boot}"""
    return parse_yaml(text, "test").pools[0]


def refusal(**settings: Any) -> str:
    with pytest.raises(InvalidConfig) as refused:
        pool(**settings)
    return str(refused.value)


def test_without_a_startup_timeout_of_its_own_such_a_pool_has_twenty_minutes() -> None:
    assert pool().startup_timeout.seconds == 1200
    assert pool(startup_timeout="40m").startup_timeout.seconds == 2400


def test_less_than_five_minutes_is_no_time_for_a_first_boot() -> None:
    assert pool(startup_timeout="5m").startup_timeout.seconds == 300
    sentence = 'startup_timeout (pool cpu): is "4m"; it must be at least 5m in a pool with first_boot'
    assert sentence in refusal(startup_timeout="4m")


@pytest.mark.parametrize(
    "url",
    [
        "http://files.example.com/b.tar.gz",
        "http://127.0.0.1/b.tar.gz",
        "s3://bucket/b.tar.gz",
        "https://files.example.com",
        "https:///b.tar.gz",
        "https://me:hunter2@files.example.com/b.tar.gz",
        "https://bucket.s3.amazonaws.com/b.tar.gz?X-Amz-Signature=hunter2",
        "\"https://files.example.com/b'; reboot; echo '\"",
        '"https://files.example.com/$(reboot)"',
        '"https://files.example.com/a b"',
        '"https://files.example.com/<limit>"',
        '"https://files.example.com/b\\nreboot"',
        f"https://files.example.com/{'x' * 1024}",
    ],
)
def test_an_address_that_is_no_plain_https_one_is_refused_and_not_repeated(url: str) -> None:
    said = refusal(first_boot={**BUNDLE, "bundle_url": url})
    assert "pools[0].first_boot.bundle_url (pool cpu)" in said
    assert "an https:// address without login and query" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("digits", [SHA256[1:], SHA256 + "0", "g" + SHA256[1:], f"sha256:{SHA256}", "5"])
def test_a_hash_has_64_hexadecimal_digits(digits: str) -> None:
    said = refusal(first_boot={**BUNDLE, "bundle_sha256": digits})
    assert "first_boot.bundle_sha256 (pool cpu)" in said
    assert "64 hexadecimal digits" in said


def test_address_and_hash_go_together() -> None:
    assert "bundle_sha256 (pool cpu): is missing" in refusal(first_boot={"bundle_url": BUNDLE["bundle_url"]})


def test_the_variant_is_cpu_or_gpu() -> None:
    assert "must be one of cpu, gpu" in refusal(first_boot={**BUNDLE, "variant": "tpu"})
