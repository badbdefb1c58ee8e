"""Whether etcd answers this node, and what it knew when it last did."""

from __future__ import annotations

import structlog

from scaler_plugin.coordination.election import Election
from scaler_plugin.errors import StoreError

log = structlog.get_logger(__name__)


class EtcdContact:
    """``away`` changes with what the node's calls meet; each change is one log line."""

    def __init__(self, election: Election) -> None:
        self._election = election
        self.away = False
        self.was_leader = False  # when etcd last answered

    def lost(self, error: StoreError) -> None:
        if not self.away:
            log.warning("etcd_away", error=str(error))
        self.away = True

    def heard(self) -> None:
        if self.away:
            log.info("etcd_answers")
        self.away = False
        self.was_leader = self._election.leadership is not None
