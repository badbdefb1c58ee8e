"""What happened in the cluster, for people: a bounded log under ``events/``, oldest first.

Guarantees: no more than about ``keep`` events stay, whoever writes. What looks like a secret in a text is masked before it is
written: texts quote scripts, consoles and other programs. An event is a trace and nothing is decided by it, so it needs no fence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from scaler_plugin.config.masking import mask_secrets
from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.malformed import decode_all
from scaler_plugin.coordination.store import Delete, Put, Store

#: At most so many old events go in the transaction that adds one; etcd takes 128 writes in all.
MOST_DROPPED = 100

#: The kind of the event that tells of an instance that did not become a node, by itself or by the leader.
START_FAILED = "start_failed"


@dataclass(frozen=True)
class Event:
    """``kind`` is a word for programs, ``sentence`` for people; ``about`` names the instance, pool or part."""

    at: float
    kind: str
    about: str
    sentence: str
    detail: str = ""


def record(store: Store, keys: Keys, event: Event, keep: int = 200) -> None:
    """Add the event, and drop the oldest beyond ``keep``. Recording the same event again changes nothing."""
    text = encode(replace(event, sentence=mask_secrets(event.sentence), detail=mask_secrets(event.detail)))
    # Sorted by time; the digest tells events of the same millisecond apart and makes a repeated write the same key.
    key = f"{keys.events}{int(event.at * 1000):014d}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    known = [entry.key for entry in store.get_prefix(keys.events) if entry.key != key]
    surplus = known[: min(MOST_DROPPED, max(0, len(known) + 1 - keep))]
    store.transact([], [Put(key, text), *(Delete(old) for old in surplus)])


def read(store: Store, keys: Keys) -> tuple[Event, ...]:
    """The events, oldest first. One that cannot be understood is left out."""
    return decode_all(Event, store.get_prefix(keys.events))
