"""The leader: one pass from what is to what should be."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.election import Election
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_book import LaunchBook
from scaler_plugin.coordination.store import Put, Store
from scaler_plugin.core.observation import Observation
from scaler_plugin.core.planning import LaunchPlan, plan_launches
from scaler_plugin.core.ports import Clock, Fleet, TaskServer
from scaler_plugin.core.probing import Remains, what_remains
from scaler_plugin.core.view import View, make_view
from scaler_plugin.errors import CloudError, NotLeader, TaskServerError
from scaler_plugin.leader.guarded import GuardedService
from scaler_plugin.leader.janitor import Janitor
from scaler_plugin.leader.journal import Journal
from scaler_plugin.leader.launcher import Launcher
from scaler_plugin.leader.legacy_of_nodes import LegacyOfNodes
from scaler_plugin.leader.observer import Observer
from scaler_plugin.leader.problems import ProblemBoard
from scaler_plugin.leader.rescuer import Rescuer
from scaler_plugin.leader.settings import LeaderSettings
from scaler_plugin.leader.start_watch import StartWatch


class Leader:
    """The service of one node's terms.

    It keeps nothing that matters: a new instance on another node goes on from etcd, EC2 and ClearML alone.
    """

    def __init__(
        self,
        candidate: str,
        store: Store,
        keys: Keys,
        election: Election,
        server: TaskServer,
        fleet: Fleet,
        settings: Callable[[], LeaderSettings],
        clock: Clock,
        rng: Random,
    ) -> None:
        self._candidate = candidate
        self._keys = keys
        self._election = election
        self._settings = settings
        self._clock = clock
        self._problems = ProblemBoard(clock)
        self._clearml = GuardedService("ClearML", TaskServerError, clock, self._problems, rng)
        self._ec2 = GuardedService("EC2", CloudError, clock, self._problems, rng)
        # EC2 throttles and allows its calls one by one: a listing that works must not end the back-off of a launch.
        launching = GuardedService("EC2 RunInstances", CloudError, clock, self._problems, rng)
        terminating = GuardedService("EC2 TerminateInstances", CloudError, clock, self._problems, rng)
        # Nor must a call of ClearML that fails each time an instance is late keep the rescues of the same pass from theirs.
        of_late_ones = GuardedService("ClearML (late instances)", TaskServerError, clock, self._problems, rng)
        book = LaunchBook(store, keys)
        journal = Journal(store, keys, clock)
        self._observer = Observer(store, keys, book, server, fleet, clock, self._problems, self._clearml, self._ec2)
        self._launcher = Launcher(
            keys, election, book, fleet, clock, self._problems, journal, self._ec2, launching, rng
        )
        self._starts = StartWatch(store, keys, election, fleet, clock, self._problems, journal)
        self._janitor = Janitor(
            store,
            keys,
            election,
            book,
            server,
            fleet,
            clock,
            self._problems,
            journal,
            of_late_ones,
            terminating,
        )
        self._legacy = LegacyOfNodes(store, keys, election, server, clock, self._problems, journal, self._clearml)
        self._rescuer = Rescuer(store, keys, election, server, clock, self._problems, journal, self._clearml)
        self._published: View | None = None
        self._rivals: int | None = None
        self._remains: Remains | None = None

    def step(self) -> None:
        """One pass: observe, plan, act, publish.

        Raises:
            NotLeader: the term ended; whatever was begun is in the launch records.
            StoreError: etcd cannot be used; nothing more is done in this pass.
        """
        settings = self._settings()
        self._problems.begin_pass()
        if settings.problem:
            self._problems.report("config", settings.problem, "Push a corrected one: scaler-sidecar config push FILE.")
        observation = self._observer.observe(settings.policy)
        observation = self._starts.follow(observation, settings)
        self._rivals = sum(1 for node in observation.nodes if node.instance_id != self._candidate)
        plan = plan_launches(settings.policy, observation, self._clock.now())
        self._act(observation, plan, settings)
        self._legacy.sweep(observation, settings.policy)
        self._rescuer.sweep(observation, settings.policy)
        self._report_pauses(observation)
        self._publish(settings, observation, plan)
        waiting = None if observation.backlogs is None else sum(len(b) for b in observation.backlogs.values())
        under_way = len(plan.launches) + len(observation.launches)
        self._remains = what_remains(
            waiting, under_way, self._rescuer.suspects, fleet_known=observation.instances is not None
        )

    @property
    def blind_for_s(self) -> float:
        """How long ClearML or EC2 has failed without a break for this process, in seconds: its self-check."""
        since = [s for s in (self._clearml.failing_since, self._ec2.failing_since) if s is not None]
        return self._clock.monotonic() - min(since) if since else 0.0

    @property
    def remains(self) -> Remains | None:
        """What the last whole pass left to be done; ``None`` before the first."""
        return self._remains

    @property
    def has_rivals(self) -> bool:
        """Whether another node could lead instead, as of the last pass; true while none has told."""
        return self._rivals != 0

    def _act(self, observation: Observation, plan: LaunchPlan, settings: LeaderSettings) -> None:
        # Records first: what an earlier leader began is finished before anything new is promised. Except those whose call has
        # told nothing the last time, either: nobody else waits for them.
        first, last = self._launcher.begin_pass(observation)
        for launch in first:
            self._launcher.resolve(launch)
            self._observer.expect_change()
        for decision in plan.launches:
            self._launcher.start(decision, settings)
            self._observer.expect_change()
        for launch in last:
            self._launcher.resolve(launch)
        if self._janitor.tidy(observation, settings.policy):
            self._observer.expect_change()

    def _report_pauses(self, observation: Observation) -> None:
        now = self._clock.now()
        for cooldown in observation.cooldowns:
            if cooldown.until > now:
                self._problems.report(
                    f"pool {cooldown.pool}",
                    f"Launching failed {cooldown.failures} times in a row: {cooldown.what}",
                    "The pool pauses with growing intervals and then tries again by itself.",
                )

    def _publish(self, settings: LeaderSettings, observation: Observation, plan: LaunchPlan) -> None:
        leadership = self._election.leadership
        if leadership is None:
            raise NotLeader("Leadership ended during the pass.")
        view = make_view(
            leadership.term,
            self._candidate,
            settings.revision,
            settings.policy,
            observation,
            plan,
            self._problems.problems,
            leadership.since,
        )
        if view != self._published:
            self._published = None  # until the answer is here, etcd may hold either
            self._election.fenced([Put(self._keys.view, encode(view))])
            self._published = view
