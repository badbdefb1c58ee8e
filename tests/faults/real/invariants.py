"""What must hold after every scenario, whatever was killed, cut off or filled up: judged by what the servers recorded.

Each check raises ``AssertionError`` with the sentence of what broke. ``disturbed`` names the tasks that the scenario itself
interrupts (it takes their machine away); every other task must run once, and to its own end. ``unreported`` names those whose end
ClearML could not be told while it was failing: nobody can know then that such a task is done, so it may run once more, after that.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.codec import decode
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.launch_record import decode_launch_text
from scaler_plugin.core.model import InstanceId
from scaler_plugin.core.view import View

from .record import Record, Written, runs_by_task

#: A task beats five times a second, and a loaded host may keep its last line back for a moment.
SAME_MOMENT_S = 0.5


def check_all(
    record: Record,
    config: ScalerConfig,
    gone_within_s: float,
    disturbed: Collection[str] = frozenset(),
    unreported: Collection[str] = frozenset(),
) -> None:
    """At the end of a scenario, when nothing is left to do."""
    no_task_is_lost(record)
    no_task_runs_twice_at_once(record)
    no_task_is_disturbed(record, disturbed, unreported)
    no_launch_becomes_more_than_it_asked_for(record)
    no_maximum_is_exceeded(record, config)
    every_instance_is_gone(record, gone_within_s)
    one_leader_per_term(record, Keys(config.prefix, config.cluster))


def no_task_is_lost(record: Record) -> None:
    lost = {
        task: status
        for task, status in record.statuses.items()
        if status != "completed" and not (status == "queued" and task in record.waiting)
    }
    assert not lost, f"tasks are neither completed nor in a queue: {lost}"


def no_task_runs_twice_at_once(record: Record) -> None:
    for task, runs in runs_by_task(record).items():
        for first, second in pairwise(runs):
            assert second.began > first.last - SAME_MOMENT_S, (
                f"task {task} ran on {first.node} until {first.last:.1f} and on {second.node} from {second.began:.1f}"
            )
    running: dict[str, str] = {}
    for change in record.changes:
        if change.new != "in_progress":
            running.pop(change.task, None)
        elif change.old == "in_progress" and change.action == "tasks.started":
            holder = running.get(change.task, change.caller)
            assert holder == change.caller, f"task {change.task} of {holder} was started by {change.caller} as well"
        elif change.action == "tasks.started":
            running[change.task] = change.caller


def no_task_is_disturbed(record: Record, disturbed: Collection[str], unreported: Collection[str] = frozenset()) -> None:
    runs = runs_by_task(record)
    for task, status in record.statuses.items():
        if status != "completed":
            continue
        assert runs[task], f"task {task} is completed and never ran"
        assert runs[task][-1].ended, f"task {task} is completed and its last run did not come to its end"
        if task in disturbed:
            continue
        killed = [run.node for run in runs[task] if not run.ended]
        assert not killed, f"task {task} was killed on {killed}"
        if task not in unreported:
            assert len(runs[task]) == 1, f"task {task} ran {len(runs[task])} times"
            ends = [c.new for c in record.changes if c.task == task and c.old == "in_progress" and c.new != c.old]
            assert ends == ["completed"], f"task {task} left in_progress for {ends}"


def no_launch_becomes_more_than_it_asked_for(record: Record) -> None:
    started = Counter(instance.launch for instance in record.instances.values())
    asked: dict[str, int] = {}
    tokens: dict[str, tuple[str, ...]] = {}
    for call in record.launch_calls:
        asked[call.launch] = max(asked.get(call.launch, 0), call.most)
        before = tokens.setdefault(call.token, call.instance_ids)
        assert before == call.instance_ids, f"client token {call.token} started {before} and {call.instance_ids}"
    assert "" not in started, "an instance carries no launch id"
    for launch, number in started.items():
        if launch in asked:  # else its only answer was cut off, and the record tells
            assert number <= asked[launch], f"launch {launch} asked for {asked[launch]} instances and became {number}"
    for history in record.histories:
        for written in history:
            if "/launches/" in written.key and written.value is not None:
                launch, count = written.key.rpartition("/")[2], _count_of(written)
                assert started[launch] <= count, (
                    f"launch {launch} promised {count} instances and became {started[launch]}"
                )


def _count_of(written: Written) -> int:
    return decode_launch_text(written.value or "", written.key).count


def no_maximum_is_exceeded(record: Record, config: ScalerConfig) -> None:
    moments = [(i.launched, 1, i.pool) for i in record.instances.values()]
    moments += [(i.leaving, -1, i.pool) for i in record.instances.values() if i.leaving is not None]
    living: dict[str, int] = defaultdict(int)
    for at, step, pool in sorted(moments):
        living[pool] += step
        limit = config.pool(pool)
        assert limit is not None, f"an instance belongs to pool {pool!r}, which does not exist"
        assert living[pool] <= limit.max_instances, f"pool {pool} had {living[pool]} instances at {at:.1f}"


def every_instance_is_gone(record: Record, within_s: float) -> None:
    left = [i.id for i in record.instances.values() if i.terminated is None]
    assert not left, f"instances are left: {left}"
    ends = [run.last for run in record.runs]
    for instance in record.instances.values():
        unneeded = max([instance.launched, *(end for end in ends)])
        assert instance.terminated is not None
        late = instance.terminated - unneeded
        assert late <= within_s, f"{instance.id} ended {late:.0f} s after the last task"


@dataclass(frozen=True)
class Term:
    """Who led, and since when (seconds since the epoch), as the leader's key says."""

    number: int
    candidate: str
    since: float


def terms_of(record: Record, keys: Keys) -> list[Term]:
    """Every term of every etcd there was, in order."""
    found = []
    for history in record.histories:
        for written in history:
            if written.key == keys.leader and written.value is not None:
                value = json.loads(written.value)
                found.append(Term(written.created, value["candidate"], value["since"]))
    return found


def one_leader_per_term(record: Record, keys: Keys) -> None:
    """Of each etcd's own history: who led, and that nothing that only a leader writes was written by another, or between terms."""
    leaders_only = (keys.launches, keys.view, keys.cooldowns, keys.condemned(InstanceId("")))
    for history in record.histories:
        holder: dict[int, str] = {}
        term = 0
        for written in history:
            if written.key == keys.leader:
                term = written.created if written.value is not None else 0
                if written.value is not None:
                    assert holder.setdefault(term, written.value) == written.value, f"term {term} had two leaders"
            elif written.key.startswith(leaders_only) and written.value is not None:
                assert term, f"revision {written.revision} wrote {written.key} while nobody led"
                if written.key == keys.view:
                    view = decode(View, written.value, written.key)
                    assert view.term == term, f"a view of term {view.term} was accepted in term {term}"
