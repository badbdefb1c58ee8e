"""The probe's part of its sidecar: looks at who leads and what remains, and says when the probe may end."""

from __future__ import annotations

import structlog

from scaler_plugin.coordination.election import read_leader
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.registry import read_nodes
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.model import InstanceId, NodeRole, NodeState
from scaler_plugin.core.ports import Clock
from scaler_plugin.core.probing import ProbeAct, ProbeSight, judge_probe
from scaler_plugin.errors import StoreError
from scaler_plugin.sidecar.leading import Leading

log = structlog.get_logger(__name__)

#: Hands over at most this often: a worker that cannot lead leaves the cluster to the probe again.
HAND_OVER_AGAIN_S = 300.0


class Probing:
    """``leading`` is the probe's own candidacy. Nothing here outlives the process: a probe that starts again looks again."""

    def __init__(
        self, own: InstanceId, store: Store, keys: Keys, clock: Clock, leading: Leading, leader_ttl_s: float
    ) -> None:
        self._own = own
        self._store = store
        self._keys = keys
        self._clock = clock
        self._leading = leading
        self._leader_ttl_s = leader_ttl_s
        self._other: tuple[InstanceId, int] | None = None  # who leads instead, and its term
        self._other_since = 0.0
        self._knew_at = clock.monotonic()
        self._handed_over_at = float("-inf")
        self.why = ""

    def step(self) -> str | None:
        """The reason to end the instance now, if it may. Raises nothing."""
        now = self._clock.monotonic()
        sight = self._look(now)
        verdict = judge_probe(sight, self._leader_ttl_s)
        if verdict.reason != self.why:
            log.info("probe", act=verdict.act.value, reason=verdict.reason)
        self.why = verdict.reason
        if verdict.act is ProbeAct.HAND_OVER and now - self._handed_over_at >= HAND_OVER_AGAIN_S:
            self._handed_over_at = now
            self._leading.hand_over()
        return verdict.reason if verdict.act is ProbeAct.END else None

    def _look(self, now: float) -> ProbeSight:
        try:
            leader = read_leader(self._store, self._keys)
            remains = self._leading.remains
            others = self._able_others() if remains is not None and remains.what else 0
        except StoreError:
            self._other = None
            return ProbeSight(blind_for_s=now - self._knew_at)
        if leader is not None and leader.candidate != self._own:
            seen = (InstanceId(leader.candidate), leader.term)
            if self._other != seen:
                self._other, self._other_since = seen, now
            self._knew_at = now
            return ProbeSight(seen[0], now - self._other_since)
        self._other = None
        if remains is not None and remains.known:
            self._knew_at = now
        return ProbeSight(remains=remains, workers=others, blind_for_s=now - self._knew_at)

    def _able_others(self) -> int:
        return sum(
            1
            for node in read_nodes(self._store, self._keys)
            if node.state is NodeState.UP and node.identity.role is not NodeRole.PROBE and node.instance_id != self._own
        )
