"""Terminates the instances that will never be of use: many with one call, and never one that may hold a task.

Before an instance is terminated it is *condemned* by a transaction that compares "it has no node record" and "I lead": a sidecar
that registers late either registered first, and then nothing happens to it, or finds the mark and does not start to work. ClearML
is asked before, and once more between the marks and the call.

Guarantees: an instance that EC2 refuses to end rests alone and saves no other; a pass takes about two TTLs of the leader's
lease at most, whatever there is to end, and the next one goes on; the mark of one that could not be ended goes once it is to be
spared. Not guaranteed: that each instance's console is read. Each pass reads a few, the next ones go on, and of very many the last
are told by number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import structlog

from scaler_plugin.coordination.condemned import condemn, pardon
from scaler_plugin.coordination.election import RENEWALS_PER_TTL, Election
from scaler_plugin.coordination.events import START_FAILED
from scaler_plugin.coordination.events import read as read_events
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.housekeeping import Evidence, Suspect, Verdict, Working, find_suspects, follow_popped, judge
from scaler_plugin.core.model import InstanceId, PoolName, QueueName, TaskId
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.policy import ClusterPolicy
from scaler_plugin.core.ports import Clock, Fleet, TaskServer
from scaler_plugin.errors import CloudError, CloudRefused, NotLeader
from scaler_plugin.leader.failed_start import failed_start, told_of_starts
from scaler_plugin.leader.former_queues import every_queue
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.open_tasks import look_once
from scaler_plugin.leader.problems import ProblemBoard

log = structlog.get_logger(__name__)

#: TerminateInstances takes a thousand. Each needs its mark first, three calls to etcd, and ClearML's answer should be fresh.
MOST_AT_ONCE = 100
#: Of a batch that was refused, so many are tried alone in one pass.
MOST_ALONE = 10
#: Termination protection, a missing right or a lost tag needs a person, and each try is a call of its own.
REFUSED_REST_S = 300.0
#: A pass of the leader that takes six TTLs counts as hung.
BUDGET_TTLS = 2
#: Consoles that are read in one pass, and problems that are shown one by one.
MOST_TOLD = 3
#: Instances whose consoles the next passes read. EC2 hands them out for about an hour after the end.
MOST_TOLD_LATER = 30


class Terminating:
    """What it remembers (refusals, tasks on their way to an agent) another leader finds out anew."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        election: Election,
        server: TaskServer,
        fleet: Fleet,
        clock: Clock,
        problems: ProblemBoard,
        journal: Journal,
        clearml: GuardedService,
        ec2: GuardedService,
    ) -> None:
        """``clearml`` and ``ec2`` are for these calls alone: one that fails each time must hold up nothing else."""
        self._store = store
        self._keys = keys
        self._election = election
        self._server = server
        self._fleet = fleet
        self._clock = clock
        self._problems = problems
        self._journal = journal
        self._clearml = clearml
        self._ec2 = ec2
        self._queues: Sequence[QueueName] = ()  # those that may hold a task of the cluster
        self._popped_since: Mapping[TaskId, float] = {}
        self._alone: set[InstanceId] = set()  # were in a batch that EC2 refused
        self._refused: dict[InstanceId, tuple[float, str]] = {}  # until when it is left alone, and EC2's words
        self._deadline = 0.0
        self._untold: list[Suspect] = []  # have ended; why, the next passes say

    def step(self, observation: Observation, policy: ClusterPolicy) -> Sequence[Suspect]:
        """One pass; those that EC2 was told to end."""
        now = self._clock.monotonic()
        self._deadline = now + BUDGET_TTLS * RENEWALS_PER_TTL * self._election.renew_every_s
        ended = self._step(observation, policy, now)
        self._tell(ended)
        return ended

    def _step(self, observation: Observation, policy: ClusterPolicy, now: float) -> Sequence[Suspect]:
        suspects = find_suspects(observation, policy, self._clock.now())
        if suspects:
            self._queues = every_queue(self._store, self._keys, policy)
        self._forget_all_but(suspects)
        self._report_refused(suspects)
        ready = [s for s in suspects if self._refused.get(s.instance_id, (now, ""))[0] <= now]
        # ClearML has just been asked for the backlogs: while it does not answer at all, nobody needs to ask once more.
        verdict = self._look(ready if observation.backlogs is not None else (), policy)
        if not self._ec2.resting():  # else a call may have taken effect that nobody has seen yet
            self._pardon(verdict)  # a pass that could not end them has left their marks
        for working in verdict.working:
            self._report_working(working)
        for suspect in verdict.asking:
            self._report_asking(suspect, policy)
        if not verdict.condemned or self._ec2.resting():
            return ()
        marked = self._condemn(verdict.condemned)
        ended = self._terminate(self._still_useless(marked, policy)) if marked else ()
        for suspect in ended:
            log.warning("instance_terminated", instance=suspect.instance_id, pool=suspect.pool, cause=suspect.cause)
        return ended

    def _look(self, suspects: Sequence[Suspect], policy: ClusterPolicy) -> Verdict:
        """Ask ClearML; nobody is condemned when it can't be read."""
        nobody = Verdict((), ())
        if not suspects:
            self._popped_since = {}
            return nobody
        # As one question: a call that is answered must not end the back-off of the next one, which fails.
        if (seen := self._clearml.ask(self._read)) is None:
            return nobody
        now = self._clock.now()
        self._popped_since = follow_popped(seen, self._popped_since, now)
        return judge(suspects, seen, policy, self._popped_since, now)

    def _read(self) -> Evidence:
        workers = self._server.workers()
        tasks = look_once(self._server, self._queues)
        return Evidence(workers, tasks.tasks, self._server.backlogs(self._queues), all_queued=tasks.whole)

    def _condemn(self, suspects: Sequence[Suspect]) -> list[Suspect]:
        """Mark as many as there is time for; those that have registered meanwhile are left out."""
        halfway = (self._clock.monotonic() + self._deadline) / 2
        together = [s for s in suspects if s.instance_id not in self._alone][:MOST_AT_ONCE]
        alone = [s for s in suspects if s.instance_id in self._alone][:MOST_ALONE]
        marked = []
        for suspect in (*together, *alone):
            if condemn(self._election, self._store, self._keys, suspect.instance_id):
                marked.append(suspect)
            if self._clock.monotonic() >= halfway:
                break
        return marked

    def _still_useless(self, marked: Sequence[Suspect], policy: ClusterPolicy) -> Sequence[Suspect]:
        """Marking takes time, in which an agent may have pulled: ask once more, and take the mark off those that are spared."""
        verdict = self._look(marked, policy)
        self._pardon(verdict)
        return verdict.condemned

    def _pardon(self, verdict: Verdict) -> None:
        spared = (*(working.suspect for working in verdict.working), *verdict.asking)
        pardon(self._election, self._store, self._keys, [suspect.instance_id for suspect in spared])

    def _terminate(self, suspects: Sequence[Suspect]) -> Sequence[Suspect]:
        together = [s for s in suspects if s.instance_id not in self._alone]
        alone = [s for s in suspects if s.instance_id in self._alone]
        ended: list[Suspect] = []
        if len(together) == 1:
            alone = [*together, *alone]
        elif together:
            self._insist_on_leading()
            try:
                self._fleet.terminate([suspect.instance_id for suspect in together])
            except CloudRefused as refused:
                log.warning("termination_refused", instances=len(together), error=str(refused))
                ended = self._ended_all_the_same(together)
                rest = [suspect for suspect in together if suspect not in ended]
                self._alone.update(suspect.instance_id for suspect in rest)
                alone = [*rest, *alone]
            except CloudError as error:
                self._ec2.failed(error)
                return ()
            else:
                self._ec2.answered()
                ended = together
        return (*ended, *self._terminate_alone(alone[:MOST_ALONE]))

    def _terminate_alone(self, suspects: Sequence[Suspect]) -> list[Suspect]:
        ended: list[Suspect] = []
        for suspect in suspects:
            if self._clock.monotonic() >= self._deadline:
                break
            self._insist_on_leading()
            try:
                self._fleet.terminate([suspect.instance_id])
            except CloudRefused as refused:
                self._ec2.answered()
                self._refused[suspect.instance_id] = (self._clock.monotonic() + REFUSED_REST_S, str(refused))
                self._alone.add(suspect.instance_id)
                log.warning("termination_refused", instance=suspect.instance_id, error=str(refused))
            except CloudError as error:
                self._ec2.failed(error)
                break
            else:
                self._ec2.answered()
                ended.append(suspect)
        self._report_refused(suspects)
        return ended

    def _ended_all_the_same(self, suspects: Sequence[Suspect]) -> list[Suspect]:
        """Those that EC2 ends although it refused the call: a protected instance saves those in its own zone only."""
        try:
            ending = {i.instance_id for i in self._fleet.instances() if i.state.ending}
        except CloudError:
            return []  # each is tried alone, which does no harm to one that has ended
        return [suspect for suspect in suspects if suspect.instance_id in ending]

    def _insist_on_leading(self) -> None:
        if self._election.leadership is None:
            raise NotLeader("Leadership ended before EC2 was told to end instances; the successor decides anew.")

    def _tell(self, ended: Sequence[Suspect]) -> None:
        """Say why, for people. EC2 hands out the console of an instance for a while after its end."""
        waiting = [*self._untold, *ended]
        if not waiting:
            return
        told = told_of_starts(read_events(self._store, self._keys))
        later: list[Suspect] = []
        consoles = 0
        for suspect in waiting:
            knows = suspect.instance_id in told  # what it has said itself needs no console
            if self._clock.monotonic() >= self._deadline or not (knows or consoles < MOST_TOLD):
                later.append(suspect)
                continue
            consoles += not knows
            cause = f"{suspect.cause}; it was terminated"
            failure = failed_start(self._fleet, suspect.instance_id, cause, told.get(suspect.instance_id))
            self._journal.record(START_FAILED, suspect.instance_id, failure.what, failure.detail)
        self._untold = later[:MOST_TOLD_LATER]
        by_number: defaultdict[tuple[PoolName | None, str], list[InstanceId]] = defaultdict(list)
        for suspect in later[MOST_TOLD_LATER:]:
            by_number[suspect.pool, suspect.cause].append(suspect.instance_id)
        for (pool, cause), ids in by_number.items():
            first = ", ".join(ids[:MOST_TOLD])
            self._journal.record(
                "instances_terminated",
                pool or self._keys.cluster,
                f"{len(ids)} more of pool {pool} terminated, as each {cause}: {first}{', …' if len(ids) > MOST_TOLD else ''}.",
            )

    def _forget_all_but(self, suspects: Sequence[Suspect]) -> None:
        current = {suspect.instance_id for suspect in suspects}
        self._alone &= current
        self._refused = {i: refusal for i, refusal in self._refused.items() if i in current}

    def _report_refused(self, suspects: Sequence[Suspect]) -> None:
        refused = [suspect for suspect in suspects if suspect.instance_id in self._refused]
        what_to_do = (
            "Until it has ended it costs money and counts against the maxima; EC2 is asked again every 5 minutes."
        )
        for suspect in refused[:MOST_TOLD]:
            instance = suspect.instance_id
            what = f"Instance {instance} {suspect.cause}, and can't be terminated: {self._refused[instance][1]}"
            self._problems.report(instance, what, what_to_do)
        if len(refused) > MOST_TOLD:
            more, first = len(refused) - MOST_TOLD, refused[MOST_TOLD].instance_id
            what = f"{more} more instances that are of no use can't be terminated; the first of them: {first}."
            self._problems.report("EC2 TerminateInstances", what, what_to_do)

    def _report_working(self, working: Working) -> None:
        instance = working.suspect.instance_id
        self._problems.report(
            instance,
            f"Instance {instance} {working.suspect.cause}, but its ClearML worker runs task {working.task_id}.",
            "It is left alone until the task ends. Look at its sidecar: systemctl status scaler-sidecar.",
        )

    def _report_asking(self, suspect: Suspect, policy: ClusterPolicy) -> None:
        instance = suspect.instance_id
        self._problems.report(
            instance,
            f"Instance {instance} {suspect.cause}, but its agent asks ClearML for tasks: it may be cut off from etcd only.",
            f"It ends by itself when it is idle for long, and is left alone for {policy.lost_after_s / 60:.0f} min. "
            "Look at its way to etcd and at its sidecar: systemctl status scaler-sidecar.",
        )
