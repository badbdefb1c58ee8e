"""What went wrong between us and the ClearML server, as an error with a sentence for the person who must act.

Unavailable: no answer, 5xx, or "too many requests": the call may have had its effect, and trying later may help.
Refused: the server understood and said no; trying again without a change won't help.
"""

from __future__ import annotations

from typing import Any

import requests

from scaler_plugin.errors import TaskServerError, TaskServerRefused, TaskServerUnavailable

#: Answers that say "later", not "no".
_LATER = frozenset({408, 425, 429})
_CREDENTIALS = frozenset({401, 403})
_API_HINT = (
    "CLEARML_API_HOST (api.api_server) must be the API server's address (port 8008 or api.…), not the web page's."
)


def answered(
    status: int, document: Any, call: str, host: str, source: str, location: str = ""
) -> TaskServerError | None:
    """The error that an answer stands for; ``None`` for a good one."""
    meta = document.get("meta") if isinstance(document, dict) else None
    if 300 <= status < 400:
        return TaskServerRefused(
            f"{host} redirects {call} to {location or 'another address'}. {_API_HINT} Name it with the right scheme."
        )
    if not isinstance(meta, dict):
        if status >= 500 or status in _LATER:
            return TaskServerUnavailable(
                f"The ClearML server at {host} cannot serve {call} now (HTTP {status}). The next pass tries again."
            )
        return TaskServerRefused(
            f"{host} does not answer like a ClearML API server (HTTP {status} to {call}). {_API_HINT}"
        )
    subcode = meta.get("result_subcode", 0)
    said = f"{status}/{subcode}: {str(meta.get('result_msg', 'no message')).rstrip('. ')}"
    if status >= 500 or status in _LATER:
        return TaskServerUnavailable(
            f"The ClearML server at {host} cannot serve {call} now ({said}). The next pass tries again; if it goes on, look "
            "into the server's log.",
            subcode,
        )
    if status in _CREDENTIALS:
        return TaskServerRefused(
            f"The ClearML server at {host} does not accept the credentials from {source} for {call} ({said}). Create new "
            "ones in the web page under Settings → Workspace → App credentials, and put them there.",
            subcode,
        )
    if status != 200:
        return TaskServerRefused(f"The ClearML server at {host} refused {call} ({said}).", subcode)
    return None


def not_answered(error: Exception, call: str, host: str, timeout_s: float) -> TaskServerError:
    """The error for a request that brought no whole answer."""
    if isinstance(
        error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema | requests.exceptions.InvalidSchema
    ):
        return TaskServerRefused(
            f"The ClearML API host {host!r} is not a URL. Write it like http://clearml.example:8008."
        )
    what, remedy = _what_and_remedy(error, timeout_s)
    return TaskServerUnavailable(f"The ClearML server at {host} {what} ({call}). {remedy}")


def _what_and_remedy(error: Exception, timeout_s: float) -> tuple[str, str]:
    reach = "Check that it runs and that this machine may reach it; the next pass tries again."
    too_slow = f"did not answer within {timeout_s:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return (
            "cannot be trusted: its TLS certificate or handshake is not in order",
            "Set api.verify_certificate (CLEARML_API_HOST_VERIFY_CERT) to the file of your certificate authority.",
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return "cannot be reached through the proxy", "Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY."
    if isinstance(error, requests.exceptions.Timeout):
        return too_slow, reach
    text = repr(error)  # urllib3's causes are nested in the arguments; only known words are taken from it
    for word, what in (
        ("NameResolutionError", "cannot be found: its name does not resolve"),
        ("Read timed out", too_slow),
        ("Connection refused", "refused the connection"),
        ("unreachable", "cannot be reached from this network"),
    ):
        if word in text:
            return what, reach
    return "broke off the connection", reach
