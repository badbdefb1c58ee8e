"""Reading the leader's published snapshot (``view``)."""

from __future__ import annotations

from scaler_plugin.coordination.codec import decode
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.view import View


def read_view(store: Store, keys: Keys) -> View | None:
    """The last leader's view, fresh or not; ``None`` before there was one."""
    entry = store.get(keys.view)
    return None if entry is None else decode(View, entry.value, entry.key)
