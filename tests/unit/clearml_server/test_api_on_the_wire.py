"""The real adapter against answers that the stand-in does not give: how many requests it makes and what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scaler_plugin.clearml_server.api import PATTERN_BYTES, ClearmlServer
from scaler_plugin.clearml_server.task_calls import PAGE_SIZE
from scaler_plugin.core.model import QueueName
from scaler_plugin.errors import TaskServerRefused, TaskServerUnavailable

from .scripted_server import Script, ScriptedServer, answer, cut_off, data, drip, raw, token

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own, of pyparsing

SECRET = "the-secret-key"
ADDED = "2026-11-24T04:00:00.793000+00:00"


@pytest.fixture
def script() -> Iterator[Script]:
    server = ScriptedServer()
    yield server.script
    server.stop()


@pytest.fixture
def clearml(script: Script) -> Iterator[ClearmlServer]:
    server = ClearmlServer(script.url, "KEY", SECRET, credentials_source="the test", timeout_s=2.0)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOST", "ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.delenv(f"CLEARML_API_{name}", raising=False)
    monkeypatch.delenv("CLEARML_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "no-such-clearml.conf"))


def queues(count: int) -> list[QueueName]:
    return [QueueName(f"queue-{number:04d}") for number in range(count)]


def serve_queues(script: Script, names: list[QueueName]) -> None:
    """Answer queues.get_all as MongoDB would: search, sort by nature, cut into pages."""

    def reply(handler: Any) -> None:
        body = script.requests[-1].body
        found = [name for name in names if re.search(body["name"], name)]
        page = found[body["page"] * body["page_size"] :][: body["page_size"]]
        data({"queues": [{"name": name, "entries": []} for name in page]})(handler)

    script.replies["queues.get_all"] = [reply]


def test_500_existing_queues_take_one_request(script: Script, clearml: ClearmlServer) -> None:
    serve_queues(script, [*queues(PAGE_SIZE), QueueName("queue-00001"), QueueName("another")])
    assert list(clearml.backlogs(queues(PAGE_SIZE))) == queues(PAGE_SIZE)
    assert script.calls() == ["auth.login", "queues.get_all"]


def test_more_queues_than_a_page_holds_are_all_found(script: Script, clearml: ClearmlServer) -> None:
    serve_queues(script, queues(1200))
    assert len(clearml.backlogs(queues(1200))) == 1200
    assert script.calls() == ["auth.login"] + ["queues.get_all"] * 3


def test_a_pattern_never_exceeds_what_mongodb_accepts(script: Script, clearml: ClearmlServer) -> None:
    names = [QueueName(f"{'ü' * 100}-{number}") for number in range(400)]
    serve_queues(script, names)
    assert len(clearml.backlogs(names)) == 400
    assert all(len(request.body["name"].encode()) < PATTERN_BYTES + 10 for request in script.requests[1:])


def test_a_server_that_matches_more_than_asked_for_is_read_to_the_end(script: Script, clearml: ClearmlServer) -> None:
    wanted = QueueName("wanted")
    first = {"queues": [{"name": f"other-{n}", "entries": []} for n in range(PAGE_SIZE)]}
    second = {"queues": [{"name": wanted, "entries": []}, {"name": "WANTED", "entries": []}]}
    script.replies["queues.get_all"] = [data(first), data(second)]
    assert set(clearml.backlogs([wanted, QueueName("absent")])) == {wanted}
    assert [request.body["page"] for request in script.requests[1:]] == [0, 1]


def test_no_queue_no_request(script: Script, clearml: ClearmlServer) -> None:
    assert clearml.backlogs([]) == {}
    assert script.calls() == []


def test_100_000_waiting_tasks_are_read_in_one_request(script: Script, clearml: ClearmlServer) -> None:
    entries = [{"task": f"{n:032x}", "added": ADDED} for n in range(100_000)]
    script.replies["queues.get_all"] = [data({"queues": [{"name": "default", "entries": entries}]})]
    backlog = clearml.backlogs([QueueName("default")])[QueueName("default")]
    assert len(backlog) == 100_000
    assert backlog.task_ids[-1] == f"{99_999:032x}"
    assert script.calls() == ["auth.login", "queues.get_all"]


def test_the_longest_waiting_task_need_not_be_the_first(script: Script, clearml: ClearmlServer) -> None:
    entries = [{"task": "b", "added": "2026-11-24T04:00:01+00:00"}, {"task": "a", "added": "2026-11-24T04:00:00.5Z"}]
    entries[1]["added"] = "2026-11-24T04:00:00.500Z"
    script.replies["queues.get_all"] = [data({"queues": [{"name": "default", "entries": entries}]})]
    backlog = clearml.backlogs([QueueName("default")])[QueueName("default")]
    assert backlog.task_ids == ("b", "a")
    assert backlog.oldest_since == 1795492800.5


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_server_in_trouble_is_asked_once_and_called_unavailable(
    script: Script, clearml: ClearmlServer, status: int
) -> None:
    script.replies["workers.get_all"] = [raw(status, b"<html>upstream</html>")]
    with pytest.raises(TaskServerUnavailable, match=f"cannot serve workers.get_all now .HTTP {status}"):
        clearml.workers()
    assert script.calls() == ["auth.login", "workers.get_all"]


def test_503_in_the_apis_own_words_is_not_waited_out(script: Script, clearml: ClearmlServer) -> None:
    script.replies["workers.get_all"] = [answer(503, 0, "under maintenance", {})]
    with pytest.raises(TaskServerUnavailable, match="503/0: under maintenance"):
        clearml.workers()
    assert script.calls() == ["auth.login", "workers.get_all"]


def test_a_connection_that_breaks_in_the_middle_is_unavailable(script: Script, clearml: ClearmlServer) -> None:
    script.replies["workers.get_all"] = [cut_off]
    with pytest.raises(TaskServerUnavailable, match="broke off the connection"):
        clearml.workers()
    assert script.calls() == ["auth.login", "workers.get_all"]


def test_a_server_that_drips_does_not_hold_the_leader(script: Script, clearml: ClearmlServer) -> None:
    script.replies["workers.get_all"] = [drip]
    with pytest.raises(TaskServerUnavailable, match="did not answer within 2 s"):
        clearml.workers()


def test_a_redirect_is_not_followed_and_says_where_it_leads(script: Script, clearml: ClearmlServer) -> None:
    script.replies["auth.login"] = [raw(301, b"", Location="https://clearml.example/auth.login")]
    with pytest.raises(TaskServerRefused, match=r"redirects auth\.login to https://clearml\.example/auth\.login"):
        clearml.workers()


@pytest.mark.parametrize("status", [200, 405])
def test_the_web_page_in_place_of_the_api_is_recognised(script: Script, clearml: ClearmlServer, status: int) -> None:
    script.replies["auth.login"] = [raw(status, b"<html></html>")]
    with pytest.raises(TaskServerRefused, match=r"does not answer like a ClearML API server.*not the web page's"):
        clearml.workers()


def test_a_refused_token_is_renewed_once_and_the_call_repeated(script: Script, clearml: ClearmlServer) -> None:
    script.replies["auth.login"] = [data({"token": token()}), data({"token": token(7200)})]
    script.replies["workers.get_all"] = [answer(401, 30, "Unauthorized (invalid token)", {}), data({"workers": []})]
    assert clearml.workers() == ()
    assert script.calls() == ["auth.login", "workers.get_all", "auth.login", "workers.get_all"]
    assert script.requests[1].headers["Authorization"] != script.requests[3].headers["Authorization"]


def test_a_token_near_its_end_is_renewed_before_it_is_refused(script: Script, clearml: ClearmlServer) -> None:
    script.replies["auth.login"] = [data({"token": token(5)}), data({"token": token(7200)})]
    script.replies["workers.get_all"] = [data({"workers": []})]
    clearml.workers()
    clearml.workers()
    assert script.calls() == ["auth.login", "auth.login", "workers.get_all", "workers.get_all"]


def test_keys_taken_away_while_leading_are_refused_with_a_sentence(script: Script, clearml: ClearmlServer) -> None:
    unauthorized = answer(401, 22, "Unauthorized (invalid credentials)", {})
    script.replies["auth.login"] = [data({"token": token()}), unauthorized]
    script.replies["workers.get_all"] = [answer(401, 30, "Unauthorized (invalid token)", {})]
    with pytest.raises(TaskServerRefused, match="does not accept the credentials from the test") as raised:
        clearml.workers()
    assert raised.value.subcode == 22
    assert SECRET not in str(raised.value)


def test_named_keys_win_over_a_token_in_the_environment(
    script: Script, clearml: ClearmlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEARML_AUTH_TOKEN", token())
    script.replies["workers.get_all"] = [data({"workers": []})]
    clearml.workers()
    assert script.requests[0].headers["Authorization"].startswith("Basic ")


def test_a_netrc_entry_does_not_replace_the_token(
    script: Script, clearml: ClearmlServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    script.replies["workers.get_all"] = [data({"workers": []})]
    clearml.workers()
    assert script.requests[1].headers["Authorization"].startswith("Bearer ")


def test_the_environment_is_used_when_nothing_is_named(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARML_API_HOST", script.url)
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "FROM-ENV")
    monkeypatch.setenv("CLEARML_API_SECRET_KEY", SECRET)
    script.replies["auth.login"] = [answer(401, 22, "Unauthorized (invalid credentials)", {})]
    with pytest.raises(TaskServerRefused, match="CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY in the environment"):
        ClearmlServer().workers()


def test_clearml_conf_is_used_when_nothing_is_named(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conf = tmp_path / "clearml.conf"
    conf.write_text(
        f'api {{ api_server: "{script.url}"\n credentials {{ access_key = "A", secret_key = "{SECRET}" }}\n'
        " http { extra_retry_codes: [500] } }\n"
    )
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(conf))
    script.replies["workers.get_all"] = [data({"workers": []})]
    assert ClearmlServer().workers() == ()
    script.replies["auth.login"] = [answer(401, 22, "Unauthorized (invalid credentials)", {})]
    with pytest.raises(TaskServerRefused, match=re.escape(f"credentials from {conf} (api.credentials)")):
        ClearmlServer().workers()


def test_a_broken_clearml_conf_is_named_without_its_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    conf = tmp_path / "clearml.conf"
    conf.write_text(f'api {{\n credentials {{ secret_key = "{SECRET}"\n api_server: {{{{{{ "x"\n')
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(conf))
    with pytest.raises(TaskServerRefused, match=re.escape(f"{conf} is not valid")) as raised:
        ClearmlServer().workers()
    assert SECRET not in str(raised.value)


def test_no_credentials_at_all_says_where_to_put_them(script: Script) -> None:
    with pytest.raises(TaskServerRefused, match=r"no credentials for the ClearML server at .*scaler\.yaml"):
        ClearmlServer(script.url).workers()
    assert script.calls() == []


def test_a_host_that_is_no_url_is_refused() -> None:
    with pytest.raises(TaskServerRefused, match="is not a URL"):
        ClearmlServer("clearml.example:8008", "KEY", SECRET).workers()


def test_a_password_in_the_host_is_not_shown() -> None:
    with pytest.raises(TaskServerUnavailable, match=r"http://127\.0\.0\.1:1 refused the connection") as raised:
        ClearmlServer("http://someone:hidden@127.0.0.1:1", "KEY", SECRET).workers()
    assert "hidden" not in str(raised.value)


def test_an_access_key_without_its_secret_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="needs its secret key"):
        ClearmlServer("http://127.0.0.1:1", "KEY")


def test_the_sdk_leaves_the_process_as_it_was(script: Script) -> None:
    """In a process of its own: what a long-lived leader gets from importing the SDK and calling the server."""
    script.replies["workers.get_all"] = [data({"workers": []})]
    program = f"""
import logging, os, signal, sys, threading
from scaler_plugin.clearml_server.api import ClearmlServer
assert "clearml" not in sys.modules, "imported too early"
signals = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD]
def state():
    return ([signal.getsignal(s) for s in signals], dict(os.environ), threading.active_count(), sys.excepthook,
            logging.root.handlers[:], logging.root.level)
before = state()
ClearmlServer({script.url!r}, "KEY", "SECRET").workers()
assert "clearml.backend_api.session.session" in sys.modules
assert "clearml.task" not in sys.modules, "only the session is needed"
assert state() == before
from clearml import Task
assert Task.__module__ == "clearml.task", "whoever wants the whole SDK gets it"
"""
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "CLEARML_API_VERBOSE": "1", "CLEARML_CONFIG_VERBOSE": "1"}
    env |= {"CLEARML_API_EXTRA_RETRY_CODES": "500"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "SECRET" not in done.stderr
