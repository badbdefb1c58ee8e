"""Carries out launches exactly once: protocol 2, step by step, over :mod:`scaler_plugin.core.launching`.

Guarantees: a record with its open attempt is in etcd before RunInstances is called; every answer is written before
anything else is tried. A leader that dies, is paused or is cut off at any line leaves a record from which a successor
goes on without starting more than was asked for. A launch whose outcome EC2 does not tell holds up no other pool, and is given
up in the end (:mod:`scaler_plugin.leader.unsettled`). A pass takes about one TTL of the leader's lease at most; the next goes on.
"""

from __future__ import annotations

from random import Random

import structlog

from scaler_plugin.coordination.cooldowns import clear_cooldown, put_cooldown
from scaler_plugin.coordination.election import RENEWALS_PER_TTL, Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_book import LaunchBook
from scaler_plugin.core.launching import (
    cooldown_after,
    cooldown_after_success,
    found_by_tag,
    new_launch,
    refused,
    succeeded,
)
from scaler_plugin.core.model import Instance, Launch, LaunchId, PoolName
from scaler_plugin.core.observation import Cooldown, Observation
from scaler_plugin.core.offerings import in_order_of_hope
from scaler_plugin.core.planning import LaunchDecision
from scaler_plugin.core.ports import Clock, Fleet
from scaler_plugin.errors import CloudFailed, CloudRefused, CloudUnavailable, ConfigError, NotLeader
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.problems import ProblemBoard
from scaler_plugin.leader.settings import LeaderSettings
from scaler_plugin.leader.unsettled import LOST_AFTER_S, Unsettled

log = structlog.get_logger(__name__)

#: EC2 answers with this when a token comes back with other parameters: the first call with it did take effect.
TOKEN_ALREADY_USED = "IdempotentParameterMismatch"
#: … and with this when everything that the first call started has been terminated since.
TOKEN_USED_UP = "IdempotentInstanceTerminated"
#: Of a pass that counts as hung after six TTLs, so many may go into launches: each candidate is a call of its own.
BUDGET_TTLS = 1
#: Said before EC2 looks at the token. From a call that is repeated (by a leader on another machine, with other credentials) they
#: tell nothing about the first one, which may have started its instances.
NOT_ABOUT_THE_TOKEN = frozenset(
    {
        "NotSent",
        "NoCredentials",
        "NoRegion",
        "AuthFailure",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "ExpiredToken",
        "RequestExpired",
        "UnauthorizedOperation",
        "AccessDenied",
        "AccessDeniedException",
        "OptInRequired",
        "PendingVerification",
        "Blocked",
    }
)


class Launcher:
    """``ec2`` is asked for listings, ``launching`` for RunInstances: EC2 throttles the two apart, so each has its back-off."""

    def __init__(
        self,
        keys: Keys,
        election: Election,
        book: LaunchBook,
        fleet: Fleet,
        clock: Clock,
        problems: ProblemBoard,
        journal: Journal,
        ec2: GuardedService,
        launching: GuardedService,
        rng: Random,
    ) -> None:
        self._keys = keys
        self._election = election
        self._book = book
        self._fleet = fleet
        self._clock = clock
        self._problems = problems
        self._journal = journal
        self._ec2 = ec2
        self._launching = launching
        self._unsettled = Unsettled(clock, problems, rng)
        self._cooldowns: dict[PoolName, Cooldown] = {}
        self._deadline = 0.0
        self._led_in = 0  # the term of the last pass
        self._uncalled: set[str] = set()  # tokens of open attempts of this term that nobody has called with
        self._sequence = 0

    def begin_pass(self, observation: Observation) -> tuple[list[Launch], list[Launch]]:
        """Which records to resolve before anything new is launched, and which after: those that tell nothing time after time."""
        self._deadline = self._clock.monotonic() + BUDGET_TTLS * RENEWALS_PER_TTL * self._election.renew_every_s
        if (term := self._term()) != self._led_in:
            # Another leader may have made any call meanwhile.
            self._led_in, self._uncalled = term, set()
            self._unsettled.forget()
        self._cooldowns = {cooldown.pool: cooldown for cooldown in observation.cooldowns}
        self._unsettled.keep_only(observation.launches)
        unresolved = [launch for launch in observation.launches if launch.open_attempt is not None]
        first = [launch for launch in unresolved if not self._unsettled.failures(launch)]
        last = [launch for launch in unresolved if self._unsettled.failures(launch)]
        return first, sorted(last, key=self._unsettled.failures)

    def start(self, decision: LaunchDecision, settings: LeaderSettings) -> None:
        """Write the record of a new launch, then make its first call."""
        pool = settings.policy.pool(decision.pool)
        if pool is None or self._launching.resting() or self._unsettled.has_one_of(pool.name) or self._out_of_time():
            return
        launch_id = self._next_id(settings.policy.cluster)
        try:
            candidates = settings.candidates(decision.pool, launch_id, decision.count)
        except ConfigError as error:
            self._problems.report(f"pool {pool.name}", str(error), "Correct the configuration and push it again.")
            return
        known = self._cooldowns.get(pool.name)
        launch = new_launch(
            launch_id,
            decision.count,
            pool.slots_per_node,
            self._term(),
            decision.reason,
            in_order_of_hope(candidates, known.offerings if known else (), self._clock.now()),
            self._clock.now(),
        )
        self._put_uncalled(launch)
        log.info("launch_decided", launch=launch_id, pool=decision.pool, count=decision.count, reason=decision.reason)
        self._call(launch)

    def resolve(self, launch: Launch) -> None:
        """Find out what became of an open attempt, of this leader or one before it, and finish it."""
        if self._out_of_time():
            return
        is_over = self._unsettled.time_is_over(launch)
        if is_over and not self._unsettled.would_be_listed(launch):
            self._unsettled.report(launch)
            return
        if not is_over and (self._launching.resting() or self._unsettled.resting(launch)):
            self._unsettled.report(launch)
            return
        found = self._ec2.ask(lambda: self._fleet.instances_of(launch.launch_id))
        if found is None:
            return
        if len(found) >= launch.count or (is_over and found):
            self._succeeded(found_by_tag(launch, found, self._clock.now()))
        elif is_over:
            self._give_up(launch)
        else:
            # Nothing or not everything is listed yet. The same call with the same token tells, and starts nothing twice.
            self._call(launch, found)

    def _call(self, launch: Launch, found: tuple[Instance, ...] = ()) -> None:
        """Make the open attempt's call, and those of the candidates after it as long as EC2 refuses them and there is time."""
        record: Launch | None = launch
        while record is not None and (attempt := record.open_attempt) is not None:
            if self._out_of_time():
                return
            self._term()
            repeated = attempt.token not in self._uncalled
            self._uncalled.discard(attempt.token)
            try:
                instance_ids = self._fleet.run_instances(attempt.request, attempt.token)
            except CloudUnavailable as error:
                if not isinstance(error, CloudFailed):
                    self._launching.failed(error)
                self._unsettled.failed(record, attempt, error)
                return
            except CloudRefused as error:
                self._launching.answered()
                if found and error.code not in NOT_ABOUT_THE_TOKEN:
                    self._succeeded(found_by_tag(record, found, self._clock.now()))
                    return
                if error.code == TOKEN_USED_UP:
                    self._used_up(record, error)
                    return
                if error.code == TOKEN_ALREADY_USED or (repeated and error.code in NOT_ABOUT_THE_TOKEN):
                    self._unsettled.failed(record, attempt, error)
                    return
                record = self._refused(record, error)
            else:
                self._launching.answered()
                self._succeeded(succeeded(record, instance_ids, self._clock.now()))
                return

    def _used_up(self, record: Launch, error: CloudRefused) -> None:
        """EC2 knows the token of the open attempt, and has ended what it stands for."""
        self._book.delete(self._election, record.launch_id)
        log.warning("launch_given_up", launch=record.launch_id, pool=record.pool, error=str(error))
        self._journal.record(
            "launch_given_up", record.pool, f"The instances of launch {record.launch_id} have come and gone: {error}"
        )

    def _give_up(self, record: Launch) -> None:
        """Nothing of it is listed after so long: it has started nothing, and what it promised is planned anew."""
        error = self._unsettled.error(record)
        self._pause(record, error)
        log.warning("launch_given_up", launch=record.launch_id, pool=record.pool, error=error)
        self._journal.record(
            "launch_given_up",
            record.pool,
            f"Launch {record.launch_id} is given up: EC2 lists no instance of it after {LOST_AFTER_S / 60:.0f} minutes. {error}",
        )

    def _succeeded(self, record: Launch) -> None:
        self._book.put(self._election, record)
        known = self._cooldowns.get(record.pool)
        self._put_cooldown(record.pool, cooldown_after_success(known, record, self._clock.now()))
        ids = ", ".join(record.instance_ids)
        log.info("launched", launch=record.launch_id, pool=record.pool, instances=record.instance_ids)
        self._journal.record(
            "launched",
            record.pool,
            f"Launched {len(record.instance_ids)} for pool {record.pool} ({record.reason}): {ids}.",
        )

    def _refused(self, record: Launch, error: CloudRefused) -> Launch | None:
        after = refused(record, str(error), self._clock.now())
        if after is not None:
            self._put_uncalled(after)
            log.info("candidate_refused", launch=record.launch_id, pool=record.pool, error=str(error))
            return after
        cooldown = self._pause(record, str(error))
        log.warning(
            "launch_refused", launch=record.launch_id, pool=record.pool, error=str(error), failures=cooldown.failures
        )
        self._journal.record("launch_refused", record.pool, f"Launching for pool {record.pool} failed: {error}")
        return None

    def _pause(self, record: Launch, error: str) -> Cooldown:
        """Let the pool pause, then remove the record."""
        cooldown = cooldown_after(self._cooldowns.get(record.pool), record, error, self._clock.now())
        self._put_cooldown(record.pool, cooldown)
        self._book.delete(self._election, record.launch_id)
        return cooldown

    def _put_cooldown(self, pool: PoolName, cooldown: Cooldown | None) -> None:
        known = self._cooldowns.pop(pool, None)
        if cooldown is not None:
            self._cooldowns[pool] = cooldown
            put_cooldown(self._election, self._keys, cooldown)
        elif known is not None:
            clear_cooldown(self._election, self._keys, pool)

    def _put_uncalled(self, record: Launch) -> None:
        """Write the record with an attempt that has just been opened; nobody can have called with its token yet."""
        self._book.put(self._election, record)
        if (attempt := record.open_attempt) is not None:
            self._uncalled.add(attempt.token)

    def _out_of_time(self) -> bool:
        return self._clock.monotonic() >= self._deadline

    def _term(self) -> int:
        """The term, if this process still leads at this moment; checked before every act on EC2."""
        leadership = self._election.leadership
        if leadership is None:
            raise NotLeader("Leadership ended before EC2 was called; the successor goes on from the launch record.")
        return leadership.term

    def _next_id(self, cluster: str) -> LaunchId:
        # Unique even after etcd was emptied and terms begin anew: EC2 remembers client tokens on its own.
        self._sequence += 1
        return LaunchId(f"{cluster[:20]}-{int(self._clock.now() * 1000):x}-{self._term():x}-{self._sequence}")
