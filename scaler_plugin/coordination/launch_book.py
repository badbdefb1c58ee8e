"""The launch records (``launches/<id>``), written before EC2 is called and again with each outcome: protocol 2.

Guarantees: every write is fenced; a record is created once, and changed only as it was last read or written here. A leader
reads the book first in each pass; that also settles what became of a write whose answer was lost.
A record that cannot be understood is an error and not a record less: what it promised would be launched a second time.
"""

from __future__ import annotations

from scaler_plugin.coordination.codec import decode, encode
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Delete, ModifiedAt, Put, Store
from scaler_plugin.core.model import Launch, LaunchId
from scaler_plugin.errors import StoreRefused


class LaunchBook:
    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._revisions: dict[LaunchId, int] = {}  # of the records that exist, as far as we know

    def read(self) -> tuple[Launch, ...]:
        """All records in order of id. Raises :class:`~scaler_plugin.errors.StoreError` naming a malformed one."""
        entries = self._store.get_prefix(self._keys.launches)
        launches = tuple(decode(Launch, entry.value, entry.key) for entry in entries)
        self._revisions = {
            launch.launch_id: entry.mod_revision for launch, entry in zip(launches, entries, strict=True)
        }
        return launches

    def put(self, election: Election, launch: Launch) -> None:
        """Create the record, or change it if it is known here from reading or writing.

        Raises :class:`~scaler_plugin.errors.NotLeader`, and :class:`~scaler_plugin.errors.StoreRefused` if a record that would be
        created exists already or one that would be changed is not as it was; nothing is written then.
        """
        key, known = self._keys.launch(launch.launch_id), self._revisions.get(launch.launch_id, 0)
        answer = election.transact([Put(key, encode(launch))], [ModifiedAt(key, known)])
        if not answer.succeeded:
            raise StoreRefused(
                f"launch record {launch.launch_id} {'has changed' if known else 'exists already'}; "
                "nothing was written, and the records are read again"
            )
        self._revisions[launch.launch_id] = answer.revision

    def delete(self, election: Election, launch_id: LaunchId) -> None:
        """Remove the record; one that is gone is no error. Raises :class:`~scaler_plugin.errors.NotLeader`."""
        election.fenced([Delete(self._keys.launch(launch_id))])
        self._revisions.pop(launch_id, None)
