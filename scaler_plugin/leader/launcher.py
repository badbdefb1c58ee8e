"""Carries out launches exactly once: protocol 2, step by step, over :mod:`scaler_plugin.core.launching`.

Guarantees: a record with its open attempt is in etcd before RunInstances is called; every answer is written before
anything else is tried. A leader that dies, is paused or is cut off at any line leaves a record from which a successor
goes on without starting more than was asked for.
"""

from __future__ import annotations

import structlog

from scaler_plugin.coordination.cooldowns import clear_cooldown, put_cooldown
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_book import LaunchBook
from scaler_plugin.core.launching import cooldown_after, found_by_tag, new_launch, refused, succeeded
from scaler_plugin.core.model import Instance, Launch, LaunchId
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.planning import LaunchDecision
from scaler_plugin.core.ports import Clock, Fleet
from scaler_plugin.errors import CloudRefused, CloudUnavailable, ConfigError, NotLeader
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.problems import ProblemBoard
from scaler_plugin.leader.settings import LeaderSettings

log = structlog.get_logger(__name__)

#: EC2 answers with this when a token comes back with other parameters: the first call with it did take effect.
TOKEN_ALREADY_USED = "IdempotentParameterMismatch"
#: … and with this when everything that the first call started has been terminated since.
TOKEN_USED_UP = "IdempotentInstanceTerminated"
#: EC2 lists what it has started within seconds, a minute at the worst; a used token without an instance after so long is a
#: launch whose instances have come and gone.
LOST_AFTER_S = 900.0
#: Said before EC2 looks at the token. From a call that is repeated (by a leader on another machine, with other credentials) they
#: tell nothing about the first one, which may have started its instances.
NOT_ABOUT_THE_TOKEN = frozenset(
    {
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
        self._sequence = 0

    def start(self, decision: LaunchDecision, settings: LeaderSettings, observation: Observation) -> None:
        """Write the record of a new launch, then make its first call."""
        pool = settings.policy.pool(decision.pool)
        if pool is None or self._launching.resting():
            return
        launch_id = self._next_id(settings.policy.cluster)
        try:
            candidates = settings.candidates(decision.pool, launch_id, decision.count)
        except ConfigError as error:
            self._problems.report(f"pool {pool.name}", str(error), "Correct the configuration and push it again.")
            return
        launch = new_launch(
            launch_id,
            decision.count,
            pool.slots_per_node,
            self._term(),
            decision.reason,
            candidates,
            self._clock.now(),
        )
        self._book.put(self._election, launch)
        log.info("launch_decided", launch=launch_id, pool=decision.pool, count=decision.count, reason=decision.reason)
        self._call(launch, observation)

    def resolve(self, launch: Launch, observation: Observation) -> None:
        """Find out what became of an open attempt, of this leader or one before it, and finish it."""
        if self._launching.resting():
            return
        found = self._ec2.ask(lambda: self._fleet.instances_of(launch.launch_id))
        if found is None:
            return
        if len(found) >= launch.count:
            self._succeeded(found_by_tag(launch, found, self._clock.now()), observation)
            return
        # Nothing or not everything is listed yet. The same call with the same token tells, and starts nothing twice.
        self._call(launch, observation, repeated=True, found=found)

    def _call(
        self, launch: Launch, observation: Observation, *, repeated: bool = False, found: tuple[Instance, ...] = ()
    ) -> None:
        """Make the open attempt's call, and those of the candidates after it as long as EC2 refuses them."""
        record: Launch | None = launch
        while record is not None and (attempt := record.open_attempt) is not None:
            self._term()
            try:
                instance_ids = self._fleet.run_instances(attempt.request, attempt.token)
            except CloudUnavailable as error:
                self._launching.failed(error)
                return
            except CloudRefused as error:
                if found:
                    self._succeeded(found_by_tag(record, found, self._clock.now()), observation)
                    return
                if error.code in (TOKEN_ALREADY_USED, TOKEN_USED_UP):
                    self._started_before(record, error)
                    return
                if repeated and error.code in NOT_ABOUT_THE_TOKEN:
                    self._launching.failed(error)
                    return
                record, repeated = self._refused(record, error, observation), False
            else:
                self._launching.answered()
                self._succeeded(succeeded(record, instance_ids, self._clock.now()), observation)
                return

    def _started_before(self, record: Launch, error: CloudRefused) -> None:
        """EC2 knows the token of the open attempt, but lists no instance that carries the launch's tag."""
        if error.code != TOKEN_USED_UP and self._clock.now() - record.attempts[-1].started_at < LOST_AFTER_S:
            self._problems.report(
                f"launch {record.launch_id}",
                f"EC2 knows the token of launch {record.launch_id} with other parameters, but lists no instance of it.",
                f"It is looked for again, and given up after {LOST_AFTER_S / 60:.0f} minutes.",
            )
            return
        self._book.delete(self._election, record.launch_id)
        log.warning("launch_given_up", launch=record.launch_id, pool=record.pool, error=str(error))
        self._journal.record(
            "launch_given_up", record.pool, f"The instances of launch {record.launch_id} have come and gone: {error}"
        )

    def _succeeded(self, record: Launch, observation: Observation) -> None:
        self._book.put(self._election, record)
        if any(cooldown.pool == record.pool for cooldown in observation.cooldowns):
            clear_cooldown(self._election, self._keys, record.pool)
        ids = ", ".join(record.instance_ids)
        log.info("launched", launch=record.launch_id, pool=record.pool, instances=record.instance_ids)
        self._journal.record(
            "launched",
            record.pool,
            f"Launched {len(record.instance_ids)} for pool {record.pool} ({record.reason}): {ids}.",
        )

    def _refused(self, record: Launch, error: CloudRefused, observation: Observation) -> Launch | None:
        self._launching.answered()
        after = refused(record, str(error), self._clock.now())
        if after is not None:
            self._book.put(self._election, after)
            log.info("candidate_refused", launch=record.launch_id, pool=record.pool, error=str(error))
            return after
        known = next((c for c in observation.cooldowns if c.pool == record.pool), None)
        cooldown = cooldown_after(known, record, str(error), self._clock.now())
        put_cooldown(self._election, self._keys, cooldown)
        self._book.delete(self._election, record.launch_id)
        log.warning(
            "launch_refused", launch=record.launch_id, pool=record.pool, error=str(error), failures=cooldown.failures
        )
        self._journal.record("launch_refused", record.pool, f"Launching for pool {record.pool} failed: {error}")
        return None

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
