"""From a task's enqueueing to the RunInstances call, and the calls of a leader that has nothing to do."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator

from bench.stage import QUEUE, Stage, config, stage, wait_for
from bench.table import Row, seconds

#: The default poll interval, and what the promise adds to it for the pass itself.
POLL_S = 2.0
PASS_S = 0.3


def measure(trials: int, quiet_s: float) -> Iterator[Row]:
    with stage(config(max_instances=trials + 1)) as made:
        made.candidate("standby-a")
        made.await_first_pass()
        yield from _quiet(made, quiet_s)
        yield _reaction(made, trials)


def _reaction(made: Stage, trials: int) -> Row:
    waits = []
    for number in range(trials):
        time.sleep(random.uniform(1.0, 1.0 + POLL_S))  # noqa: S311 - anywhere between two polls
        task = made.call_clearml("tasks.create", {"name": f"bench {number}", "type": "testing"})["id"]
        enqueued = time.time()
        made.call_clearml("tasks.enqueue", {"task": task, "queue_name": QUEUE})
        call = wait_for(lambda: made.ask_ec2(f"/_journal?action=RunInstances&since={enqueued}"), "RunInstances")[0]  # noqa: B023
        waits.append(call["time"] - enqueued)
    limit = POLL_S + PASS_S
    what = "enqueue → RunInstances sent, warm leader"
    return Row(what, f"≤ {limit:.1f} s (poll {POLL_S:.0f} s + {PASS_S} s)", seconds(waits), limit, max(waits))


def _quiet(made: Stage, length_s: float) -> Iterator[Row]:
    # Its start is over: the queue is made, the first listing read, the election's records written.
    time.sleep(2 * POLL_S)
    began, calls_before = time.time(), _clearml_calls(made)
    revision = made.store.transact([], []).revision
    time.sleep(length_s)
    clearml = _clearml_calls(made) - calls_before
    listings = len(made.ask_ec2(f"/_journal?action=DescribeInstances&since={began}"))
    others = len(made.ask_ec2(f"/_journal?since={began}")) - listings
    written = [entry.key for entry in made.store.get_prefix(made.keys.root) if entry.mod_revision > revision]
    writes = sum(not key.startswith(made.keys.nodes) for key in written)
    passes = length_s / POLL_S
    told = ", ".join(f"{number} {action}" for action, number in clearml.most_common())
    of = f"in {passes:.0f} passes of a quiet {length_s:.0f} s"
    # One more than the passes: the window may begin and end with one.
    yield Row("ClearML calls of a quiet leader", "1 a pass", f"{told or 'none'} {of}", passes + 1, clearml.total())
    yield Row(
        "DescribeInstances of a quiet leader",
        "≤ 1 in 10 s",
        f"{listings} {of}, {others} other EC2 calls",
        length_s / 10 + 1,
        listings + 100 * others,
    )
    yield Row("etcd writes of a quiet leader", "on change only", f"{writes} {of}", 0, writes)


def _clearml_calls(made: Stage) -> Counter[str]:
    return Counter(line["action"] for line in made.ask_clearml("/_journal"))
