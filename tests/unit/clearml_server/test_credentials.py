"""Where keys come from is told; what they are is not."""

from __future__ import annotations

import pytest

from scaler_plugin.clearml_server.credentials import Credentials, shown_host, source_of


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLEARML_AUTH_TOKEN", "CLEARML_API_ACCESS_KEY", "TRAINS_API_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_the_secret_key_does_not_stand_in_the_credentials_text() -> None:
    assert "hidden" not in repr(Credentials("http://clearml", "KEY", "hidden"))


def test_sources_are_told_in_the_order_in_which_the_sdk_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert source_of(Credentials(), None) == "nowhere"
    assert source_of(Credentials(), "/root/clearml.conf") == "/root/clearml.conf (api.credentials)"
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "KEY")
    assert "CLEARML_API_ACCESS_KEY" in source_of(Credentials(), "/root/clearml.conf")
    monkeypatch.setenv("CLEARML_AUTH_TOKEN", "token")
    assert "CLEARML_AUTH_TOKEN" in source_of(Credentials(), "/root/clearml.conf")
    assert source_of(Credentials(None, "A", "B", "file:/etc/keys"), "/root/clearml.conf") == "file:/etc/keys"


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("https://api.clear.ml/", "https://api.clear.ml"),
        ("http://user:password@clearml:8008", "http://clearml:8008"),
        ("http://[broken", "an address that is not a URL"),
    ],
)
def test_a_host_is_shown_without_what_is_secret_in_it(host: str, shown: str) -> None:
    assert shown_host(host) == shown
