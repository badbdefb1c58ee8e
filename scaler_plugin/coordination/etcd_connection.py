"""Connections to etcd: one channel at a time, moved to the next endpoint as soon as one fails or hangs.

gRPC's own list of addresses (``ipv4:a,b,c``) leaves an endpoint only once its connection breaks; one that hangs, as a frozen
machine does, would hold every call until a keepalive ping fails, which is longer than a leader can wait. So each endpoint gets its
own channel under its own host name (which also makes TLS host checks right), and a call that gets no answer moves on.

Guarantees: a call ends within the timeout; repeatable calls have tried every endpoint by then; a write is sent twice only
where the first is known not to have left. Not guaranteed: that a write which ended in ``StoreUnavailable`` was not applied.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from scaler_plugin.coordination import etcd_errors
from scaler_plugin.coordination.etcd_rpc import grpc, rpc
from scaler_plugin.errors import ConfigError, StoreError, StoreRefused, StoreUnavailable

T = TypeVar("T")
Metadata: TypeAlias = tuple[tuple[str, str], ...]

DEFAULT_PORT = 2379
#: etcd elects a leader of its own within a second or two, and refuses everything at once meanwhile.
ELECTION_PAUSE_S = 0.1

_CHANNEL_OPTIONS = (
    # 10,000 nodes are more than gRPC's 4 MB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Finds a dead peer under an idle watch. etcd hangs up on clients that ping more often than every 5 s, or without a call.
    ("grpc.keepalive_time_ms", 8_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # A new channel must dial anew, not join the old one's hung connection or its back-off.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # etcd is in the private network: a proxy for the way out, or a DNS TXT record, has no say here.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)


@dataclass(frozen=True)
class Endpoint:
    """``host:port`` with or without ``http://`` or ``https://``; without, TLS is used when any TLS file is given."""

    host: str
    port: int
    tls: bool

    @staticmethod
    def parse(text: str, tls_files: bool) -> Endpoint:
        with_scheme = text if "://" in text else f"{'https' if tls_files else 'http'}://{text}"
        try:
            parts = urlsplit(with_scheme)
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError:
            host, port, parts = None, 0, urlsplit("")
        if not host or parts.scheme not in ("http", "https") or parts.path not in ("", "/"):
            raise ConfigError(f"etcd endpoint {text!r} is not understood; write it as host:port or https://host:port")
        return Endpoint(host, port, parts.scheme == "https")

    @property
    def target(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"dns:///{host}:{self.port}"


@dataclass(frozen=True)
class Access:
    """How to reach etcd and as whom. The files are read again for each connection, so renewed certificates are picked up."""

    endpoints: tuple[Endpoint, ...]
    ca: Path | None
    cert: Path | None
    key: Path | None
    user: str | None
    password: str | None
    timeout_s: float

    def __str__(self) -> str:
        return ", ".join(f"{endpoint.host}:{endpoint.port}" for endpoint in self.endpoints)

    def __repr__(self) -> str:
        return f"Access({self})"  # the generated one would show the password

    @property
    def tls(self) -> bool:
        """Whether TLS is meant: by a file that was given, or by the scheme of an endpoint."""
        return any((self.ca, self.cert, self.key, *(endpoint.tls for endpoint in self.endpoints)))

    def check_files(self) -> None:
        for path in (self.ca, self.cert, self.key):
            if path is not None:
                try:
                    path.read_bytes()
                except OSError as error:
                    raise ConfigError(
                        f"the TLS file {path} for etcd cannot be read ({error.strerror}); check path and rights"
                    ) from error

    def channel(self, endpoint: Endpoint) -> Any:
        if not endpoint.tls:
            return grpc.insecure_channel(endpoint.target, options=_CHANNEL_OPTIONS)
        try:
            ca, key, cert = (path.read_bytes() if path else None for path in (self.ca, self.key, self.cert))
        except OSError as error:
            raise StoreRefused(
                f"the TLS file {error.filename} for etcd can no longer be read ({error.strerror}); check path and rights"
            ) from error
        return grpc.secure_channel(
            endpoint.target, grpc.ssl_channel_credentials(ca, key, cert), options=_CHANNEL_OPTIONS
        )


class Connection:
    """One channel. It stays usable for the calls under way when it is retired, and closes after the last of them.

    ``with`` ends a use that :meth:`Connections.borrow` has begun.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self._lock = threading.Lock()
        self._calls = 0
        self._retired = False
        self._on_retired: Callable[[], object] | None = None
        self.kv = rpc.KVStub(channel)
        self.lease = rpc.LeaseStub(channel)
        self.watch = rpc.WatchStub(channel)
        self.auth = rpc.AuthStub(channel)

    def begin_use(self) -> None:
        with self._lock:
            self._calls += 1

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._calls -= 1
            last = self._retired and self._calls == 0
        if last:
            self.channel.close()

    def when_retired(self, act: Callable[[], object]) -> None:
        """Call ``act`` once this connection is given up (at once, if it is already): a long-lived stream must move on."""
        with self._lock:
            retired = self._retired
            self._on_retired = act
        if retired:
            act()

    def retire(self) -> None:
        with self._lock:
            if self._retired:
                return
            self._retired = True
            idle, act = self._calls == 0, self._on_retired
        if act is not None:
            act()
        if idle:
            self.channel.close()


class Connections:
    """The current connection, its successor when it fails, and the token of the user."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._lock = threading.Lock()
        self._current: Connection | None = None
        self._next_endpoint = 0
        self._token: str | None = None
        self._closed = False

    def borrow(self) -> Connection:
        """The current connection, for one ``with``.

        Taken and marked as in use in one step: given up by another thread in between, its channel would be closed already, for
        which gRPC has a ``ValueError``.
        """
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the connection to etcd was closed by this program; open it again")
            if self._current is None:
                endpoint = self.access.endpoints[self._next_endpoint % len(self.access.endpoints)]
                self._current = Connection(self.access.channel(endpoint))
            self._current.begin_use()
            return self._current

    def give_up(self, connection: Connection) -> None:
        """Move on to the next endpoint, unless another thread has done so."""
        with self._lock:
            if self._current is connection:
                self._current = None
                self._next_endpoint += 1
        connection.retire()

    def metadata(self, connection: Connection, timeout_s: float) -> Metadata:
        """The user's token, fetched when there is none. Raises ``grpc.RpcError``."""
        if self.access.user is None:
            return ()
        with self._lock:
            token = self._token
        if token is None:
            request = rpc.AuthenticateRequest(name=self.access.user, password=self.access.password or "")
            token = str(connection.auth.Authenticate(request, timeout_s).token)
            with self._lock:
                self._token = token
        return (("token", token),)

    def forget_token(self) -> None:
        with self._lock:
            self._token = None

    def call(self, ask: Callable[[Connection, float, Metadata], T], *, repeatable: bool) -> T:
        """The answer to ``ask(connection, timeout_s, metadata)``. ``repeatable``: asking twice is the same as once."""
        deadline = time.monotonic() + self.access.timeout_s
        untried = len(self.access.endpoints)
        # A single endpoint gets a second try: its old connection may have died with etcd's restart.
        tries = max(2, untried)
        fresh_token = False
        while True:
            asked = False
            with self.borrow() as connection:
                timeout_s = max(0.05, deadline - time.monotonic()) / max(1, untried)
                try:
                    metadata = self.metadata(connection, timeout_s)
                    asked = True
                    return ask(connection, timeout_s, metadata)
                except grpc.RpcError as error:
                    if etcd_errors.token_expired(error) and not fresh_token:
                        fresh_token = True  # refused before it did anything: even a write may be repeated
                        self.forget_token()
                        continue
                    if not etcd_errors.outcome_unknown(error):
                        raise
                    if repeatable and etcd_errors.electing(error) and time.monotonic() + ELECTION_PAUSE_S < deadline:
                        time.sleep(ELECTION_PAUSE_S)
                        continue
                    self.give_up(connection)
                    untried, tries = untried - 1, tries - 1
                    may_repeat = repeatable or not asked or etcd_errors.never_sent(error)
                    if not may_repeat or tries <= 0 or time.monotonic() >= deadline:
                        raise etcd_errors.unavailable(
                            str(self.access), self.access.timeout_s, error, self.access.tls
                        ) from error

    def refused(self, error: Any) -> StoreError:
        return etcd_errors.refused(str(self.access), self.access.user, error)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connection, self._current = self._current, None
        if connection is not None:
            with suppress(ValueError):  # gRPC's answer to closing a channel twice
                connection.retire()


def parse_endpoints(endpoints: Sequence[str], tls_files: bool) -> tuple[Endpoint, ...]:
    if not endpoints:
        raise ConfigError("no etcd endpoint is given; set at least one, such as 10.0.0.1:2379")
    parsed = tuple(Endpoint.parse(text, tls_files) for text in endpoints)
    if tls_files and not all(endpoint.tls for endpoint in parsed):
        raise ConfigError(
            "TLS files are given for etcd, but an endpoint begins with http://; write https:// for all of them"
        )
    return parsed
