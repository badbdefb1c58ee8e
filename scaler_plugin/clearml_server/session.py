"""The ClearML SDK's session with a transport that is fit for a daemon: bounded calls, errors as sentences, nothing printed.

Taken from the SDK: ``clearml.conf`` and the environment (host, keys, certificate settings), log-in, token renewal. Replaced
is its way to send a request (``Session._send_request``), which

- tries again for ever on 503 ("undergoing maintenance"), on TLS errors and on broken chunks, and by default 240 times with a
  back-off of up to two minutes on everything else: the leader would stand still in the middle of a pass;
- sends the old token again after it has renewed it on a 401.

Guaranteed: :meth:`DaemonSession.call` makes one HTTP request (three when the token was refused: the call, a log-in, the call
again), ends within ``timeout_s`` (apart from name resolution, which has no time limit in Python), and raises nothing but
:class:`~scaler_plugin.errors.TaskServerUnavailable` and :class:`~scaler_plugin.errors.TaskServerRefused`. No message carries a key,
a token or a line of ``clearml.conf``. Not guaranteed: use by several threads at once.

Importing this module imports the SDK's session and its configuration, and not the rest of ``clearml``: 40 MB instead of 68, and
half the time, for which a cluster has no leader. It starts no thread and changes neither the environment nor signal handlers.
"""

from __future__ import annotations

import json as json_lib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.exceptions import HTTPError

from scaler_plugin.clearml_server.credentials import Credentials, shown_host, source_of
from scaler_plugin.clearml_server.failure import answered, not_answered
from scaler_plugin.clearml_server.part_of_package import without_init
from scaler_plugin.errors import TaskServerError, TaskServerRefused, TaskServerUnavailable

with without_init("clearml"):
    from clearml import backend_api
    from clearml.backend_api.session.defs import ENV_HOST_VERIFY_CERT, MissingConfigError
    from clearml.backend_api.session.session import LoginError, Session
    from clearml.backend_config import Config
    from clearml.backend_config.converters import strtobool
    from clearml.backend_config.defs import get_active_config_file
    from clearml.backend_config.errors import ConfigurationError

#: How long to wait for a connection: a packet lost twice is sent again after 3 s at the latest.
CONNECT_TIMEOUT_S = 3.5
#: What the server's logs show as the caller.
CALLER = "scaler-sidecar"
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Answer:
    """An answer of the server, in the little of ``requests.Response`` that the SDK's log-in looks at."""

    status_code: int
    reason: str
    document: Any  # the body as JSON; None when it is none
    location: str = ""

    def json(self) -> Any:
        return self.document


class _AsGiven(AuthBase):
    """Leave the request's headers alone: without it ``requests`` lets a ``~/.netrc`` entry replace our token."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class DaemonSession(Session):
    """One log-in to one server. The constructor logs in; it raises what :meth:`call` raises."""

    _offline_mode = False  # CLEARML_OFFLINE_MODE is for experiments: offline, the SDK answers every call with None

    def __init__(self, credentials: Credentials, timeout_s: float) -> None:
        config = _configuration()
        host = credentials.api_host or Session.get_api_server_host(config)
        self._explicit = credentials
        self._source = source_of(credentials, get_active_config_file())
        self._shown_host = shown_host(host)
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._requests = requests.Session()
        self._requests.verify = _verify(config)
        for scheme in ("http://", "https://"):
            self._requests.mount(scheme, HTTPAdapter(max_retries=0, pool_connections=1, pool_maxsize=1))
        logger = logging.getLogger("scaler_plugin.clearml_sdk")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        try:
            super().__init__(
                worker=CALLER,
                api_key=credentials.access_key,
                secret_key=credentials.secret_key,
                host=host,
                logger=logger,
                verbose=False,
                config=config,
                http_retries_config={"total": 0},
            )
        except MissingConfigError:
            raise TaskServerRefused(
                f"There are no credentials for the ClearML server at {self._shown_host}. Set CLEARML_API_ACCESS_KEY and "
                "CLEARML_API_SECRET_KEY, write api.credentials into clearml.conf, or name them in scaler.yaml."
            ) from None
        except (LoginError, ValueError) as error:
            self._fail_login(error)

    def call(self, action: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make the API call ``service.action`` and return the answer's ``data``."""
        self._deadline = time.monotonic() + self._timeout_s
        service, _, name = action.partition(".")
        try:
            answer = self._send_request(service, name, headers=self.add_auth_headers({}), json=body)
        except LoginError as error:
            self._fail_login(error)
        data: Mapping[str, Any] = answer.document.get("data") or {}
        return data

    def close(self) -> None:
        self._requests.close()

    def _send_request(  # type: ignore[override]  # the SDK's log-in reads no more than an Answer has
        self,
        service: str,
        action: str,
        headers: Mapping[str, str] | None = None,
        auth: AuthBase | None = None,
        json: Any = None,
        refresh_token_if_unauthorized: bool = True,
        params: Mapping[str, Any] | None = None,
        **_: Any,  # version, method, data: the newest version and POST serve for all of our calls
    ) -> Answer:
        name = f"{service}.{action}"
        headers = dict(headers or {})
        if name == "auth.login" and self._explicit.access_key and self._explicit.secret_key:
            # Keys that somebody has named win over a CLEARML_AUTH_TOKEN that happens to be in the environment.
            headers.pop("Authorization", None)
            auth = HTTPBasicAuth(self._explicit.access_key, self._explicit.secret_key)
        body = json if params is None else params  # the log-in's wish for a token's life: a query string on a GET
        answer = self._exchange(name, headers, auth, body)
        if answer.status_code == requests.codes.unauthorized and refresh_token_if_unauthorized:
            self.refresh_token()
            answer = self._exchange(name, self.add_auth_headers(headers), auth, body)
        if error := answered(
            answer.status_code, answer.document, name, self._shown_host, self._source, answer.location
        ):
            raise error
        return answer

    def _exchange(
        self,
        name: str,
        headers: Mapping[str, str],
        auth: AuthBase | None,
        body: Any,
    ) -> Answer:
        left = self._deadline - time.monotonic()
        try:
            if left <= 0:
                raise requests.ReadTimeout
            with self._requests.post(
                f"{self.host}/{name}",
                headers={**headers, "X-ClearML-Worker": CALLER, "X-ClearML-Client": self.client},
                auth=auth or _AsGiven(),
                json=body,
                timeout=(min(CONNECT_TIMEOUT_S, left), left),
                allow_redirects=False,  # a redirected POST becomes a GET and loses its body and its token
                stream=True,
            ) as response:
                received = bytearray()
                # The time limit of ``requests`` is per packet, so a server that drips would hold the leader for ever:
                # take what is there (``read1``) and look at the clock.
                while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
                    received += chunk
                    if time.monotonic() > self._deadline:
                        raise requests.ReadTimeout
                location = response.headers.get("Location", "")
                return Answer(response.status_code, response.reason, _parsed(received), location)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise not_answered(error, name, self._shown_host, self._timeout_s) from None

    def _load_vaults(self) -> None:
        """Do not fetch the user's vault: it may replace the configuration, and a leader needs nothing of it."""

    def _apply_config_sections(self, local_logger: Any) -> None:
        """Do not write the configuration's ``environment`` and ``files`` sections into this process and its machine."""

    def _fail_login(self, error: Exception) -> NoReturn:
        # The SDK wraps what its log-in raised into its own error; ours, with the sentence, is the one before it.
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, TaskServerError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise TaskServerUnavailable(
            f"Logging in to the ClearML server at {self._shown_host} failed inside the SDK ({type(error).__name__}). Check that "
            "this address is the API server's."
        ) from None


def _parsed(body: bytearray) -> Any:
    try:
        return json_lib.loads(body)
    except ValueError:
        return None


def _configuration() -> Any:  # a Config; the SDK's annotations ask for the ConfigTree inside it
    """``clearml.conf`` over the SDK's defaults, without setting up the SDK's logging as ``clearml.config`` would."""
    path = get_active_config_file()
    try:
        if path:
            Path(path).expanduser().read_bytes()
        config = Config(verbose=False)
        config.load_relative_to(Path(backend_api.__file__).parent / "config")
        return config
    except OSError as error:
        raise TaskServerRefused(f"{path} cannot be read ({error.strerror}). Let the sidecar's user read it.") from None
    except ConfigurationError as error:
        line = getattr(error.__cause__, "lineno", None)
        where = f" near line {line}" if line else ""
        raise TaskServerRefused(f"{path} is not valid{where}. Correct it, or make it anew with clearml-init.") from None


def _verify(config: Config) -> bool | str:
    """Whether to check the server's certificate, or the file to check it against: the SDK's own setting."""
    value = ENV_HOST_VERIFY_CERT.get(default=config.get("api.verify_certificate", True))
    if not isinstance(value, str):
        return bool(value)
    try:
        return bool(strtobool(value))
    except ValueError:
        return value
