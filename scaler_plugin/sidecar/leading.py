"""A node's candidacy: stands for election, runs the leader's passes while elected, and hands over when it is blind.

It is a service of its own beside the sidecar, with its own loop: an EC2 that takes half a minute to answer delays neither the
node's report nor its retirement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from scaler_plugin.coordination.election import Election
from scaler_plugin.core.ports import Clock
from scaler_plugin.core.probing import Remains
from scaler_plugin.errors import NotLeader, ScalerError, StoreError
from scaler_plugin.sidecar.settings import FollowedSettings

if TYPE_CHECKING:
    from scaler_plugin.leader.service import Leader

log = structlog.get_logger(__name__)

#: A leader that has not been able to use ClearML or EC2 for so long gives others a chance, and does not stand for election
#: again for the same time. The cause may be this machine's (network, credentials), and then another one does better.
BLIND_LIMIT_S = 60.0

#: A candidate is woken by its watch when the leader's key goes; this often it looks all the same.
CANDIDATE_STEP_S = 5.0


#: So many passes in a row that ended with an error which nobody has foreseen: another node may do better.
CRASHES_BEFORE_HANDOVER = 3

#: After a pass in which etcd failed. The leadership goes on until its deadline, and etcd may be back by then.
RETRY_S = 1.0


class Leading:
    """``make_leader`` is called for each term, and again when the configuration changes: its clients take their addresses and
    secrets from there. Only with the first call are the leader's libraries loaded.

    ``report_unfit`` tells people why this node could not lead, in a sentence.
    """

    def __init__(
        self,
        settings: FollowedSettings,
        election: Election,
        clock: Clock,
        make_leader: Callable[[], Leader],
        report_unfit: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._election = election
        self._clock = clock
        self._make_leader = make_leader
        self._report_unfit = report_unfit
        self._leader: Leader | None = None
        self._made_for = (0, 0)  # its term and the configuration's revision
        self._failure = ""
        self._next_pass_at = float("-inf")
        self._abstain_until = float("-inf")
        self._stopped = False

    def step(self) -> None:
        """One pass: campaign or lead. Nothing that the outside does wrong is raised; for a bug there is :meth:`recover`."""
        policy = self._settings.policy
        if policy is None or self._stopped or self._clock.monotonic() < self._abstain_until:
            return
        try:
            held = self._election.step()
            if held is None:
                self._leader = None  # what it remembers is of a term that is over
                return
            if self._stopped:  # meanwhile: this step may have campaigned after the stop had resigned
                self._election.resign()
                return
            if self._clock.monotonic() < self._next_pass_at:
                return
            self._next_pass_at = self._clock.monotonic() + policy.poll_interval_s
            leader = self._leader_of(held.term)
            leader.step()
        except NotLeader as error:
            log.warning("stepped_down", reason=str(error))
            self._leader = None
        except StoreError as error:
            self._next_pass_at = self._clock.monotonic() + RETRY_S
            self._failed("pass_given_up", str(error))
        except ScalerError as error:
            # A secret or setting that this machine cannot read: another one may.
            self._failed("cannot_lead", str(error))
            self._report_unfit(str(error))
            self._abstain()
        else:
            self._failure = ""
            self._look_at_itself(leader)

    def _leader_of(self, term: int) -> Leader:
        now = (term, self._settings.revision)
        if self._leader is None or self._made_for != now:
            self._leader, self._made_for = self._make_leader(), now
        return self._leader

    def _failed(self, event: str, error: str) -> None:
        if error != self._failure:
            log.warning(event, error=error)
        self._failure = error

    @property
    def remains(self) -> Remains | None:
        """What the leader's last pass left to be done; ``None`` unless this node leads."""
        leader = self._leader
        return leader.remains if leader is not None and self._election.leadership is not None else None

    def hand_over(self) -> None:
        """Give up the lead and do not stand for election for a while, so that another node takes it. Never raises."""
        self._abstain()

    def recover(self, crashes: int) -> None:
        """After a step that ended with an error nobody has foreseen, the last of so many in a row. Never raises.

        The next pass is made by a new leader with new clients, of this node or, after some crashes, of another if there is one.
        """
        leader, self._leader = self._leader, None
        if crashes >= CRASHES_BEFORE_HANDOVER and (leader is None or leader.has_rivals):
            log.warning("handing_over", crashes=crashes)
            self._abstain()

    def seconds_to_next_step(self) -> float:
        """How long the runner may sleep before the next pass if nothing wakes it."""
        now = self._clock.monotonic()
        if self._election.leadership is not None:
            return max(0.0, self._next_pass_at - now)
        if self._settings.policy is None:
            return 1.0
        return max(CANDIDATE_STEP_S, self._abstain_until - now)

    def stop(self) -> None:
        """Give up leadership and candidacy for good. Never raises."""
        self._stopped = True
        self._election.resign()

    def _look_at_itself(self, leader: Leader) -> None:
        if leader.blind_for_s < BLIND_LIMIT_S:
            return
        if leader.has_rivals:
            log.warning("handing_over", blind_for_s=round(leader.blind_for_s))
            self._abstain()
        else:
            self._leader = None  # nobody else can; new clients read their secrets anew

    def _abstain(self) -> None:
        self._abstain_until = self._clock.monotonic() + BLIND_LIMIT_S
        self._leader = None
        self._election.resign()
