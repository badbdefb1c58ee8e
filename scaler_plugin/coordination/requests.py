"""What people ask of nodes, under ``requests/nodes/<instance-id>/``: each node reads its own with one small call.

Anybody who may write to etcd may ask, so these writes carry no fence. The leader removes what is over, fenced.
"""

from __future__ import annotations

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.malformed import decode_all
from scaler_plugin.coordination.store import Delete, Put, Store
from scaler_plugin.core.model import InstanceId
from scaler_plugin.core.requests import DrainRequest, NodeRequests, ProtectRequest


def request(store: Store, keys: Keys, asked: DrainRequest | ProtectRequest) -> None:
    """Ask; an earlier request of the same kind for the node is replaced."""
    store.transact([], [Put(request_key(keys, asked), encode(asked))])


def withdraw_drain(store: Store, keys: Keys, instance_id: InstanceId) -> None:
    store.transact([], [Delete(keys.drain_request(instance_id))])


def withdraw_protection(store: Store, keys: Keys, instance_id: InstanceId) -> None:
    store.transact([], [Delete(keys.protect_request(instance_id))])


def request_key(keys: Keys, asked: DrainRequest | ProtectRequest) -> str:
    if isinstance(asked, DrainRequest):
        return keys.drain_request(asked.instance_id)
    return keys.protect_request(asked.instance_id)


def read_requests_of(store: Store, keys: Keys, instance_id: InstanceId) -> NodeRequests:
    """What is asked of this node. A malformed request counts as none."""
    drain: DrainRequest | None = None
    protect: ProtectRequest | None = None
    for asked in _read(store, keys, f"{keys.node_requests}{instance_id}/"):
        if isinstance(asked, DrainRequest):
            drain = asked
        else:
            protect = asked
    return NodeRequests(drain, protect)


def read_all_requests(store: Store, keys: Keys) -> tuple[DrainRequest | ProtectRequest, ...]:
    return _read(store, keys, keys.node_requests)


def _read(store: Store, keys: Keys, prefix: str) -> tuple[DrainRequest | ProtectRequest, ...]:
    found: list[DrainRequest | ProtectRequest] = []
    for entry in store.get_prefix(prefix):
        kind = DrainRequest if entry.key.endswith("/drain") else ProtectRequest
        found.extend(decode_all(kind, [entry]))
    return tuple(found)
