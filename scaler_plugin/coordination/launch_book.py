"""The launch records (``launches/<id>``), written before EC2 is called and again with each outcome: protocol 2.

Guarantees: every write is fenced; a record is created once, and changed only as it was last read or written here. A leader
reads the book first in each pass; that also settles what became of a write whose answer was lost.
A record that cannot be understood is passed over and named in ``unread``, for it is no record less: what it promised may have been
launched, and would be launched a second time. What is to be done about that is for the reader to decide.
"""

from __future__ import annotations

from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_record import decode_launch_text, encode_launch
from scaler_plugin.coordination.malformed import tell_once
from scaler_plugin.coordination.store import Delete, Entry, ModifiedAt, Put, Store
from scaler_plugin.core.model import Launch, LaunchId
from scaler_plugin.errors import RecordMalformed, StoreRefused


class LaunchBook:
    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._revisions: dict[LaunchId, int] = {}  # of the records that exist, as far as we know
        #: The records that could not be understood when the book was last read, by the ids in their keys.
        self.unread: tuple[LaunchId, ...] = ()

    def read(self) -> tuple[Launch, ...]:
        """All records that can be understood, in order of id; the others are then in ``unread``."""
        launches, unread = [], []
        revisions: dict[LaunchId, int] = {}
        for entry in self._store.get_prefix(self._keys.launches):
            launch_id = LaunchId(entry.key.removeprefix(self._keys.launches))
            try:
                launches.append(decode_launch(entry, self._keys))
            except RecordMalformed as error:
                tell_once(entry, error)
                unread.append(launch_id)
            else:
                revisions[launch_id] = entry.mod_revision
        self._revisions, self.unread = revisions, tuple(unread)
        return tuple(launches)

    def put(self, election: Election, launch: Launch) -> None:
        """Create the record, or change it if it is known here from reading or writing.

        Raises :class:`~scaler_plugin.errors.NotLeader`, and :class:`~scaler_plugin.errors.StoreRefused` if a record that would be
        created exists already or one that would be changed is not as it was; nothing is written then.
        """
        key, known = self._keys.launch(launch.launch_id), self._revisions.get(launch.launch_id, 0)
        answer = election.transact([Put(key, encode_launch(launch))], [ModifiedAt(key, known)])
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


def decode_launch(entry: Entry, keys: Keys) -> Launch:
    """The record, if the launcher can go on from it: a copy under another key, say, would be carried out twice.

    Raises :class:`~scaler_plugin.errors.RecordMalformed`.
    """
    launch = decode_launch_text(entry.value, entry.key)
    if keys.launch(launch.launch_id) != entry.key:
        raise RecordMalformed(f"The record at {entry.key} is that of launch {launch.launch_id}; delete it")
    if launch.open_attempt is None and not launch.instance_ids:
        raise RecordMalformed(f"The launch record {entry.key} has no attempt that is open or was answered; delete it")
    return launch
