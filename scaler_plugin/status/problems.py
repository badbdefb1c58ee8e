"""What a person may have to act on: the leader's own list, what it cannot know about itself, and the failures of the last hour.

Pure. The order is that of a night shift: what stops everything first, then the leader's problems, then single nodes, then
failures that are over but may explain the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from scaler_plugin.coordination.events import START_FAILED, Event
from scaler_plugin.core.census import AGENT_RESTART_GRACE_S
from scaler_plugin.core.model import Node, NodeState, Problem, SlotState
from scaler_plugin.status.reading import ClusterRecords
from scaler_plugin.status.report import ProblemStatus, ZeroStatus
from scaler_plugin.status.wording import duration

#: A failure that nobody has looked into for an hour and that did not come back is history: the events still have it.
FAILURES_SHOWN_FOR_S = 3600.0
#: A new leader publishes its view with its first pass, which takes a second or two; some more if EC2 or ClearML are slow.
FIRST_VIEW_WITHIN_S = 30.0
#: The default of ``startup_timeout``: an agent that has not started by then costs money and takes no task.
AGENT_START_WITHIN_S = 600.0
#: A pull is an HTTP call of milliseconds, and minutes while the server does not answer and the agent tries again.
PULL_WITHIN_S = 300.0

_SPOILED = (
    "A task did this, in error or with intent: look on that instance at what runs there, and into the task's console. "
    "`scaler-sidecar drain` lets the node take no other task; a node without a sound slot ends by itself."
)

#: What to do about an event that tells of a failure, by kind.
_ADVICE = {
    START_FAILED: (
        "The end of its console output says how far it came. Usual causes: the image has no scaler-sidecar, "
        "the init script failed, or etcd cannot be reached from the subnet."
    ),
    "check_failed": "Correct the check in the pool's configuration; until then it says nothing about the machines.",
    "launch_refused": "The pool tries again after its pause; if the same comes back, do what the message says.",
}
#: The same for a start that failed of which the instance itself told the reason, through etcd: by a part of its words.
_TOLD_BY_THE_INSTANCE = (
    (" could not be set up: ", "Do what it says. While the instance lives it tries again every ten seconds."),
    (
        " did not pass its health gate ",
        "If others of its pool fail alike, look at the pool's image and its health settings.",
    ),
)
#: What a record that can't be read stands for, by the first part of its key, and so what to do.
_MALFORMED = {
    "launches": "Its instances are counted as EC2 lists them, and ended if they don't register. If a newer version runs on other "
    "nodes, leave the record to them; else delete it with etcdctl.",
    "nodes": "The node's sidecar writes it anew within seconds. If it does not, look at its log: journalctl -u scaler-sidecar.",
    "handbacks": "The task whose id ends the key may be stopped and in no queue: if so enqueue it in ClearML, then delete the "
    "record with etcdctl.",
    "requests": "It counts as not asked. Ask again with `scaler-sidecar drain` or `protect`, or delete it with etcdctl.",
    "cooldowns": "It counts as no pause. The leader writes it anew at the pool's next failed launch; or delete it with etcdctl.",
    "starts": "It counts as no failure. The leader writes it anew at the pool's next failed start; or delete it with etcdctl.",
}
_MALFORMED_OTHER = "Another program or a newer version wrote it; nobody else can read it."

_ANY_FAILURE = "If it comes back, look at the leader's log: journalctl -u scaler-sidecar."


def list_problems(
    records: ClusterRecords, fresh: bool, zero: ZeroStatus | None, now: float
) -> tuple[ProblemStatus, ...]:
    """Every problem, the most pressing first. What an earlier leader reported may be over, or be the reason why none leads."""
    reported = records.view.problems if records.view else ()
    now_wrong = [
        *_of_the_whole(records, fresh, zero, now),
        *(reported if fresh else ()),
        *_of_nodes(records.nodes, now),
    ]
    before = () if fresh else reported
    known = {problem.about for problem in reported}
    return (
        *(_as_status(problem, True, now) for problem in now_wrong),
        *(_as_status(problem, False, now) for problem in before),
        *_failures(records, known, now),
    )


def _as_status(problem: Problem, current: bool, now: float) -> ProblemStatus:
    since = problem.since or None
    for_s = round(max(0.0, now - problem.since), 1) if since else None
    return ProblemStatus(problem.about, problem.what, problem.what_to_do, since, for_s, current, 1, problem.detail)


def _of_the_whole(records: ClusterRecords, fresh: bool, zero: ZeroStatus | None, now: float) -> Iterator[Problem]:
    """Problems with ``since`` 0 where nobody can say since when."""
    if records.empty:
        yield Problem(
            "cluster",
            f"etcd holds nothing about cluster {records.cluster} (under {records.root}).",
            "Check --cluster or SCALER_CLUSTER, and SCALER_PREFIX. A new cluster begins with: "
            "scaler-sidecar config push scaler.yaml",
            0.0,
        )
        return
    if zero is not None and zero.last_look_s is not None:
        if zero.overdue:
            yield _no_probe(zero)
    elif records.leader is None:
        yield _no_leader(records)
    elif not fresh and now - records.leader.since > FIRST_VIEW_WITHIN_S:
        leader = records.leader
        yield Problem(
            "leader",
            f"{leader.candidate} leads, but has published nothing in its term.",
            f"Look at its log on {leader.candidate}: journalctl -u scaler-sidecar. Stopping that sidecar lets another one lead.",
            leader.since,
        )
    if records.config_revision is None:
        yield Problem(
            "config",
            "No configuration is published, so nothing is launched.",
            "Publish one: scaler-sidecar config push scaler.yaml",
            0.0,
        )
    for malformed in records.malformed:
        yield Problem("etcd", malformed.sentence, _MALFORMED.get(malformed.kind, _MALFORMED_OTHER), 0.0)


def _no_probe(zero: ZeroStatus) -> Problem:
    return Problem(
        "probe",
        f"Nothing is up, and no probe has looked for tasks for {duration(zero.last_look_s or 0.0)}; one should every "
        f"{duration(zero.probe_every_s)}.",
        "`scaler-sidecar wake scaler.yaml` launches one at once and says what becomes of it. The schedule is in the stack: "
        "`scaler-sidecar bootstrap plan scaler.yaml` says what it lacks.",
        zero.last_look_at or 0.0,
    )


def _no_leader(records: ClusterRecords) -> Problem:
    if records.nodes:
        return Problem(
            "leader",
            "No sidecar leads, so nothing is launched.",
            "The nodes elect one within seconds. If they do not, look at their logs: journalctl -u scaler-sidecar.",
            0.0,
        )
    return Problem(
        "leader",
        "No node is up and no sidecar leads, so nothing is launched.",
        f"{_what_starts(records)} If an instance runs and does not register, its console says why: "
        "aws ec2 get-console-output --latest --output text --instance-id …",
        0.0,
    )


def _what_starts(records: ClusterRecords) -> str:
    """What brings a node up."""
    probe = "The schedule launches the next probe within probe_every; `scaler-sidecar wake scaler.yaml` launches it at once."
    other = (
        "Start the first instance: scaler-sidecar bootstrap first scaler.yaml. Or a sidecar that can lead, on a machine that is up "
        "anyway: scaler-sidecar run --standby"
    )
    if records.view is None and records.policy is None:
        return f"With zero.mode probe: {probe[0].lower()}{probe[1:]} Otherwise: {other[0].lower()}{other[1:]}."
    return probe if records.probe_every_s is not None else f"{other}."


def _of_nodes(nodes: Iterable[Node], now: float) -> Iterator[Problem]:
    for node in nodes:
        for state, patience_s, what in (
            (SlotState.DOWN, AGENT_RESTART_GRACE_S, "down and did not come back"),
            (SlotState.STARTING, AGENT_START_WITHIN_S, "still not started"),
        ):
            late = [s for s in node.slots if s.state is state and not s.problem and now - s.since > patience_s]
            if late and node.state is NodeState.UP:
                which = "Its agent is" if len(node.slots) == 1 else f"{len(late)} of its {len(node.slots)} agents are"
                yield Problem(
                    node.instance_id,
                    f"{which} {what}.",
                    "Look at the agent's log on that instance; `scaler-sidecar node` there shows its slots.",
                    min(slot.since for slot in late),
                )
        for slot in node.slots:
            if slot.problem:
                yield Problem(node.instance_id, slot.problem, _SPOILED, 0.0)
            elif slot.pulling_since is not None and now - slot.pulling_since > PULL_WITHIN_S:
                yield Problem(
                    node.instance_id,
                    f"The agent of slot {slot.index} has been asking for a task for {duration(now - slot.pulling_since)}, or could "
                    "not write down which it got. Until that ends, no task that is in no queue is put back into one of its pool.",
                    "Look at the agent's log and the disk on that instance; if the agent hangs, terminate the instance.",
                    slot.pulling_since,
                )


def _failures(records: ClusterRecords, reported: set[str], now: float) -> list[ProblemStatus]:
    """Failures of the last hour, newest first, equal ones once; without those that are over or that the leader still reports."""
    by_sentence: dict[tuple[str, str], ProblemStatus] = {}
    launched: set[str] = set()
    # An instance that could not start and then did is well, and of one that could not, the last word says most.
    registered_at: dict[str, float] = {node.instance_id: node.registered_at for node in records.nodes}
    spoken_for: set[str] = set()
    for event in sorted(records.events, key=lambda event: -event.at):
        if now - event.at > FAILURES_SHOWN_FOR_S:
            break
        if event.kind == "launched":
            launched.add(event.about)
        if not event.kind.endswith(("_failed", "_refused")):
            continue
        if event.about in launched or f"pool {event.about}" in reported or event.about in reported:
            continue
        if event.kind == START_FAILED:
            if event.about in spoken_for or event.at <= registered_at.get(event.about, 0.0):
                continue
            spoken_for.add(event.about)
        same = event.kind, event.sentence.replace(event.about, "")
        if (newest := by_sentence.get(same)) is not None:
            by_sentence[same] = _once_more(newest)
            continue
        by_sentence[same] = ProblemStatus(
            about=event.about,
            what=event.sentence,
            what_to_do=_advice(event),
            since=event.at,
            for_s=round(max(0.0, now - event.at), 1),
            current=False,
            times=1,
            detail=event.detail,
        )
    return list(by_sentence.values())


def _advice(event: Event) -> str:
    if event.kind == START_FAILED:
        for words, what_to_do in _TOLD_BY_THE_INSTANCE:
            if words in event.sentence:
                return what_to_do
    return _ADVICE.get(event.kind, _ANY_FAILURE)


def _once_more(problem: ProblemStatus) -> ProblemStatus:
    return replace(problem, times=problem.times + 1)
