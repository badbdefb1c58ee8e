"""Watches how the instances that launches await turn out, and keeps the breaker's count (:mod:`scaler_plugin.core.breaker`).

Guarantees: each failed start is counted once, also by a leader that takes over between counting it and noting in the launch
record that nobody waits for it any more. All that a pass shows are counted before EC2 is asked what any of them said. Not
guaranteed: that each console is read. Each pass reads a few, the next ones go on, and of very many the last are told by number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog

from scaler_plugin.config.masking import mask_secrets
from scaler_plugin.coordination.election import RENEWALS_PER_TTL, Election
from scaler_plugin.coordination.events import START_FAILED
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.start_records import clear_start_record, put_start_record
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.breaker import (
    FailedStart,
    StartRecord,
    after_failures,
    failed_after_registering,
    starts_again,
    with_new_configuration,
    with_words,
)
from scaler_plugin.core.housekeeping import find_suspects, find_vanished
from scaler_plugin.core.model import InstanceId, PoolName
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock, Fleet
from scaler_plugin.leader.failed_start import failed_start, in_short, told_of_starts
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.problems import ProblemBoard
from scaler_plugin.leader.settings import LeaderSettings

log = structlog.get_logger(__name__)

ENDED_EARLY = "ended before its node registered"
_ENDED_EARLY_EACH = "ended before their nodes registered"
VANISHED = "is not listed by EC2 any more, and never registered"

#: Consoles that are read in one pass; each is a call of its own.
MOST_CONSOLES = 3
#: Instances that have ended whose consoles the next passes read.
MOST_TOLD_LATER = 30
#: Of a pass that counts as hung after six TTLs, so many may go into consoles.
BUDGET_TTLS = 1
#: So many ids stand for the rest in a sentence.
_FIRST_NAMED = 3


class StartWatch:
    def __init__(
        self,
        store: Store,
        keys: Keys,
        election: Election,
        fleet: Fleet,
        clock: Clock,
        problems: ProblemBoard,
        journal: Journal,
    ) -> None:
        self._store = store
        self._keys = keys
        self._election = election
        self._fleet = fleet
        self._clock = clock
        self._problems = problems
        self._journal = journal
        self._records: dict[PoolName, StartRecord] = {}
        self._revision = 0
        self._current: frozenset[InstanceId] = frozenset()  # awaited or registered
        self._consoles_left = 0
        self._deadline = 0.0
        self._untold: list[InstanceId] = []  # have ended early; what they said, the next passes tell

    def follow(self, observation: Observation, settings: LeaderSettings) -> Observation:
        """Count what this pass shows, and return the picture with the counts as they are now.

        An instance that is late counts before it is terminated: or what it leaves unserved would be launched for once more.
        """
        self._records = {record.pool: record for record in observation.starts}
        self._revision = settings.revision
        awaited = (instance_id for launch in observation.launches for instance_id in launch.awaited)
        self._current = observation.node_ids.union(awaited)
        self._consoles_left = MOST_CONSOLES
        self._deadline = self._clock.monotonic() + BUDGET_TTLS * RENEWALS_PER_TTL * self._election.renew_every_s
        now = self._clock.now()
        failed = _failed(observation, settings.policy, now)
        new = {pool: self._not_counted(pool, causes) for pool, causes in failed.items()}
        told = told_of_starts(read_events(self._store, self._keys)) if any(new.values()) else {}
        before = dict(self._records)
        for pool, causes in new.items():
            self._enter(pool, [in_short(i, cause, told.get(i)) for i, cause in causes.items()])
        self._tell_of_earlier_ones()
        for pool, causes in new.items():
            untold = {instance_id: cause for instance_id, cause in causes.items() if instance_id not in told}
            self._tell_of_failures(pool, untold)
            self._tell_of_pause(pool, before.get(pool))
        worked = self._follow_nodes(observation, now)
        registered = {
            launch.pool for launch in observation.launches if not observation.node_ids.isdisjoint(launch.awaited)
        }
        # After the failures of the same pass: a pool of which some instances start is not broken.
        for pool, record in tuple(self._records.items()):
            if starts_again(record, pool in registered, worked[pool]):
                self._clear(pool)
        for record in tuple(self._records.values()):
            renewed = with_new_configuration(record, self._revision, now)
            if renewed != record:
                self._put(renewed)
        self._report_pauses(now)
        return replace(observation, starts=tuple(self._records.values()))

    def _follow_nodes(self, observation: Observation, now: float) -> Mapping[PoolName, list[float]]:
        """Count the useless ones; of those that have worked, when they were launched."""
        launched = {instance.instance_id: instance.launched_at for instance in observation.instances or ()}
        useless: defaultdict[PoolName, list[FailedStart]] = defaultdict(list)
        worked: defaultdict[PoolName, list[float]] = defaultdict(list)
        for node in observation.nodes:
            launched_at = launched.get(node.instance_id)
            if node.pool is None or launched_at is None:
                continue
            if node.worked or node.busy:
                worked[node.pool].append(launched_at)
            elif (failure := failed_after_registering(node, launched_at, now)) is not None:
                useless[node.pool].append(failure)
        for pool, failures in useless.items():
            known = self._records.get(pool)
            self._enter(pool, failures)
            self._tell_of_pause(pool, known)
        return worked

    def _not_counted(self, pool: PoolName, causes: Mapping[InstanceId, str]) -> Mapping[InstanceId, str]:
        known = self._records.get(pool)
        counted = frozenset(known.failed) if known else frozenset()
        return {instance_id: cause for instance_id, cause in causes.items() if instance_id not in counted}

    def _enter(self, pool: PoolName, failures: Sequence[FailedStart]) -> None:
        known = self._records.get(pool)
        record = after_failures(known, pool, failures, self._revision, self._clock.now(), self._current)
        if record is not None and record != known:
            self._put(record)

    def _tell_of_failures(self, pool: PoolName, causes: Mapping[InstanceId, str]) -> None:
        """Say what the consoles of some say. ``causes`` are of those that have said nothing in etcd themselves."""
        ended = [instance_id for instance_id, cause in causes.items() if cause is ENDED_EARLY]
        late = [instance_id for instance_id, cause in causes.items() if cause is not ENDED_EARLY]
        later: list[InstanceId] = []
        for number, instance_id in enumerate((*ended, *late)):
            if not self._has_time():
                later = ended[number:]
                break
            self._consoles_left -= 1
            failure = failed_start(self._fleet, instance_id, causes[instance_id])
            self._put(with_words(self._records[pool], failure))
            if instance_id in ended:  # of the others people are told when they are terminated, or waited for no longer
                self._journal.record(START_FAILED, instance_id, failure.what, failure.detail)
        room = MOST_TOLD_LATER - len(self._untold)
        self._untold += later[:room]
        if by_number := later[room:]:
            first = ", ".join(by_number[:_FIRST_NAMED])
            self._journal.record(
                "starts_failed",
                pool,
                f"{len(by_number)} more of pool {pool} {_ENDED_EARLY_EACH}: "
                f"{first}{', …' if len(by_number) > _FIRST_NAMED else ''}.",
            )

    def _tell_of_earlier_ones(self) -> None:
        while self._untold and self._has_time():
            instance_id = self._untold.pop(0)
            self._consoles_left -= 1
            failure = failed_start(self._fleet, instance_id, ENDED_EARLY)
            self._journal.record(START_FAILED, instance_id, failure.what, failure.detail)

    def _has_time(self) -> bool:
        return self._consoles_left > 0 and self._clock.monotonic() < self._deadline

    def _tell_of_pause(self, pool: PoolName, before: StartRecord | None) -> None:
        record = self._records.get(pool)
        if record is None or record.pauses <= (before.pauses if before else 0):
            return
        minutes = round((record.until - self._clock.now()) / 60)
        log.warning("pool_paused", pool=pool, failures=record.in_a_row, minutes=minutes, last=record.what)
        self._journal.record(
            "pool_paused",
            pool,
            f"Pool {pool} pauses for {minutes} min: {record.in_a_row} instances in a row did not start. "
            f"The last: {record.what}",
            record.detail,
        )

    def _put(self, record: StartRecord) -> None:
        # What a node says of itself may quote its checks, and one of another version may not have masked it.
        record = replace(record, what=mask_secrets(record.what), detail=mask_secrets(record.detail))
        put_start_record(self._election, self._keys, record)
        self._records[record.pool] = record

    def _clear(self, pool: PoolName) -> None:
        record = self._records.pop(pool)
        clear_start_record(self._election, self._keys, pool)
        if record.pauses:
            log.info("pool_starts_again", pool=pool)
            self._journal.record("pool_resumed", pool, f"Instances of pool {pool} start again; its pause is over.")

    def _report_pauses(self, now: float) -> None:
        for record in self._records.values():
            if record.paused(now):
                self._problems.report(
                    f"pool {record.pool}",
                    f"{record.in_a_row} instances in a row did not start. The last: {record.what}",
                    "The end of its output says how far it came. The pool pauses for up to an hour, then tries one instance; "
                    "`scaler-sidecar config push` with a correction makes it try at once.",
                    record.detail,
                )


def _failed(observation: Observation, policy: ClusterPolicy, now: float) -> Mapping[PoolName, Mapping[InstanceId, str]]:
    """The awaited instances that have ended, are not listed any more or are late, and which of these, by pool."""
    failed: defaultdict[PoolName, dict[InstanceId, str]] = defaultdict(dict)
    for launch in observation.launches:
        for instance_id in launch.awaited:
            if instance_id in observation.ending and instance_id not in observation.node_ids:
                failed[launch.pool][instance_id] = ENDED_EARLY
        for instance_id in sorted(find_vanished(launch, observation, policy, now)):
            failed[launch.pool][instance_id] = VANISHED
    for suspect in find_suspects(observation, policy, now):
        if suspect.launch_id is not None and suspect.pool is not None:
            failed[suspect.pool][suspect.instance_id] = suspect.cause
    return failed
