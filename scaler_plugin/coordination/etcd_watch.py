"""Wake-up calls from etcd: every watch of a store shares one stream and one thread, however many there are.

A broken stream is opened again with growing pauses (jittered: thousands of nodes lose it at the same moment when etcd
restarts), and then every watch is called once, since changes may have been missed. The stream asks for ``hasleader``: a member cut
off from the others would otherwise keep it open and say nothing.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

from scaler_plugin.coordination import etcd_errors
from scaler_plugin.coordination.etcd_connection import Connection, Connections
from scaler_plugin.coordination.etcd_rpc import grpc, rpc
from scaler_plugin.errors import StoreError

_log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
#: etcd refuses a watch in the same words for a token that has expired and for a missing permission. So the first refusal costs a
#: new token, and the next ones this pause: a permission comes from a person, and each new token costs etcd a bcrypt.
REFUSED_PAUSE_S = 30.0


def prefix_end(prefix: bytes) -> bytes:
    """etcd's ``range_end`` for "every key that starts with ``prefix``"; ``\\0`` stands for "to the end"."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


class StreamWatch:
    """One watched prefix. ``missed`` is set while changes may have gone by unseen."""

    def __init__(self, prefix: str, on_change: Callable[[], None], stream: WatchStream) -> None:
        self.prefix = prefix.encode() or b"\0"
        self.range_end = prefix_end(prefix.encode())
        self.ready = threading.Event()
        self.missed = False
        self.cancelled = False
        self._on_change = on_change
        self._stream = stream

    def cancel(self) -> None:
        self.cancelled = True
        self._stream.remove(self)

    def call(self) -> None:
        if self.cancelled:
            return
        try:
            self._on_change()
        except Exception:
            _log.exception("what a watch of %s woke up has failed", self.prefix)  # a bug, but not the other watches'


class WatchStream:
    """The stream and the thread that reads it; both begin with the first watch."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._changed = threading.Condition()
        self._watches: list[StreamWatch] = []
        self._requests: SimpleQueue[Any] | None = None  # into the open stream
        self._call: Any = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._refusals = 0  # in a row
        self._waiting: deque[StreamWatch] = deque()  # asked for and not yet confirmed; etcd confirms in order
        self._ids: dict[int, StreamWatch] = {}

    def add(self, prefix: str, on_change: Callable[[], None], wait_s: float) -> StreamWatch:
        """Watch, and wait until etcd has confirmed it. Where that takes too long, it is called once when it has."""
        watch = StreamWatch(prefix, on_change, self)
        with self._changed:
            self._watches.append(watch)
            if self._requests is not None:
                self._ask_for(watch, self._requests)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="etcd-watch", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if not watch.ready.wait(wait_s):
            watch.missed = True
            if watch.ready.is_set():
                watch.call()
        return watch

    def remove(self, watch: StreamWatch) -> None:
        with self._changed:
            if watch not in self._watches:
                return
            self._watches.remove(watch)
            watch_id = next((number for number, known in self._ids.items() if known is watch), None)
            if watch_id is not None and self._requests is not None:
                self._requests.put(rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=watch_id)))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            call, thread = self._call, self._thread
            self._changed.notify_all()
        if call is not None:
            call.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2.0)

    def _ask_for(self, watch: StreamWatch, requests: SimpleQueue[Any]) -> None:
        self._waiting.append(watch)
        request = rpc.WatchCreateRequest(key=watch.prefix, range_end=watch.range_end)
        requests.put(rpc.WatchRequest(create_request=request))

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._watches or self._closed)
                if self._closed:
                    return
            confirmed = self._read_one_stream()
            pause_s = FIRST_PAUSE_S if confirmed else min(LONGEST_PAUSE_S, pause_s * 2)
            if self._refusals > 1:
                pause_s = REFUSED_PAUSE_S
            with self._changed:
                for watch in self._watches:
                    watch.missed = True
                self._changed.wait_for(lambda: self._closed, timeout=pause_s * random.uniform(0.5, 1.0))  # noqa: S311

    def _read_one_stream(self) -> bool:
        """Open a stream, read it until it ends; true if etcd confirmed a watch on it."""
        try:
            with self._connections.borrow() as connection:
                return self._read(connection)
        except StoreError:
            return False  # closed meanwhile, or the TLS files are gone; the other calls say so
        except Exception:
            # A bug; but without this thread nobody in this process would be woken again.
            _log.exception("the stream of watches has failed and is opened again")
            return False

    def _read(self, connection: Connection) -> bool:
        requests: SimpleQueue[Any] = SimpleQueue()
        confirmed, connected, call = False, True, None
        try:
            token = self._connections.metadata(connection, self._connections.access.timeout_s)
            call = connection.watch.Watch(_until_none(requests), metadata=(*token, ("hasleader", "true")))
            self._begin(call, requests)
            connection.when_retired(call.cancel)
            connected = False  # however the stream ends now, unless etcd refuses a watch on it, it has broken
            for response in call:
                if not self._take(response, requests):
                    connected = True
                    self._refusals += 1
                    self._connections.forget_token()
                    break
                confirmed = True
            else:
                self._refusals = 0
        except grpc.RpcError as error:
            if etcd_errors.token_expired(error):
                self._connections.forget_token()
            connected = not etcd_errors.outcome_unknown(error)
            self._refusals = 0
        finally:
            with self._changed:
                self._requests = self._call = None
            requests.put(None)  # lets gRPC's sending thread end
            if call is not None:
                call.cancel()
        if not connected and not self._closed:
            self._connections.give_up(connection)
        return confirmed

    def _begin(self, call: Any, requests: SimpleQueue[Any]) -> None:
        with self._changed:
            self._waiting.clear()
            self._ids.clear()
            self._requests, self._call = requests, call
            for watch in self._watches:
                self._ask_for(watch, requests)
            if self._closed:
                call.cancel()

    def _take(self, response: Any, requests: SimpleQueue[Any]) -> bool:
        """One message from etcd. False when it has refused or dropped a watch, so that the stream must begin anew."""
        with self._changed:
            if response.created:
                watch = self._waiting.popleft()
                if response.canceled:
                    return False
                self._ids[response.watch_id] = watch
                if watch.cancelled:
                    cancel = rpc.WatchCancelRequest(watch_id=response.watch_id)
                    requests.put(rpc.WatchRequest(cancel_request=cancel))
                call_back, watch.missed = watch.missed, False
                watch.ready.set()
            elif response.canceled:
                gone = self._ids.pop(response.watch_id, None)
                return gone is None or gone.cancelled
            else:
                known = self._ids.get(response.watch_id)
                if known is None or not response.events:
                    return True
                watch, call_back = known, True
        if call_back:
            watch.call()
        return True


def _until_none(requests: SimpleQueue[Any]) -> Iterator[Any]:
    return iter(requests.get, None)
